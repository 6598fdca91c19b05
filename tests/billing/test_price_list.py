"""Which price a worker finds for itself."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from handler.billing.price import Price
from handler.billing.price_list import (
    SHIPPED,
    InvalidPrices,
    PriceList,
    Row,
    choose_prices,
    find_price,
    read_prices,
    refreshed_path,
    write_prices,
)

FLEX = {
    "NVIDIA RTX A4000": "0.00016", "NVIDIA L4": "0.00019", "NVIDIA GeForce RTX 4090": "0.00031",
    "NVIDIA A40": "0.00034", "NVIDIA L40S": "0.00053", "NVIDIA A100 80GB PCIe": "0.00076",
    "NVIDIA H100 NVL": "0.00116", "NVIDIA RTX PRO 6000 Blackwell Server Edition": "0.00111",
    "NVIDIA H200": "0.00155", "NVIDIA B200": "0.00240",
}


@pytest.fixture(autouse=True)
def no_refreshed_prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def flex(gpu: str | None, count: int = 1) -> tuple[Price, str | None]:
    return find_price(gpu, count, kind="flex", override=None, prices_file=None)


@pytest.mark.parametrize(("gpu", "per_second"), FLEX.items())
def test_a_gpu_of_each_row_costs_what_runpod_publishes(gpu: str, per_second: str) -> None:
    assert flex(gpu) == (Price(Decimal(per_second), "flex", "2026-06-08"), None)


@pytest.mark.parametrize("name", ["NVIDIA+GeForce+RTX+4090", "nvidia geforce rtx 4090", "RTX 4090", "4090", "ADA_24"])
def test_one_gpu_has_many_names(name: str) -> None:
    assert flex(name)[0].per_second == Decimal("0.00031")


@pytest.mark.parametrize(
    ("one", "other"),
    [("NVIDIA L4", "NVIDIA L40"), ("NVIDIA A40", "NVIDIA RTX A4000"), ("NVIDIA H100 PCIe", "NVIDIA H200")],
)
def test_names_that_look_alike_are_kept_apart(one: str, other: str) -> None:
    assert flex(one)[0].per_second != flex(other)[0].per_second


@pytest.mark.parametrize(
    "gpu",
    [
        "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA RTX A40000",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Quadro RTX 4000", "NVIDIA L", "NVIDIA", "", "ADA",
    ],
)
def test_a_gpu_outside_the_list_has_no_price_and_the_user_is_told(gpu: str) -> None:
    price, note = flex(gpu)
    assert price == Price(None, "flex", None)
    assert note is not None
    assert repr(gpu) in note
    assert "PILOTLIGHT_PRICE" in note
    assert "\n" not in note


def test_without_a_gpu_there_is_no_price() -> None:
    price, note = flex(None)
    assert price.per_second is None
    assert note is not None
    assert "no GPU" in note


def test_a_worker_costs_all_its_gpus() -> None:
    assert flex("NVIDIA H200", 4)[0].per_second == Decimal("0.00620")


def test_active_workers_have_the_last_price_that_was_published_and_its_date() -> None:
    price, note = find_price("NVIDIA L4", 2, kind="active", override=None, prices_file=None)
    assert price == Price(Decimal("0.00026"), "active", "2026-05-13")
    assert note is not None
    assert "2026-05-13" in note


def test_an_active_worker_without_such_a_price_is_counted_at_the_flex_price() -> None:
    gpu = "NVIDIA RTX PRO 6000 Blackwell Server Edition"
    price, note = find_price(gpu, 1, kind="active", override=None, prices_file=None)
    assert price == Price(Decimal("0.00111"), "flex", "2026-06-08")
    assert note is not None
    assert "flex" in note


def test_the_users_own_price_wins_over_every_list() -> None:
    price, note = find_price("anything", 8, kind="active", override=Decimal("0.001"), prices_file=Path("/missing"))
    assert (price, note) == (Price(Decimal("0.001"), "active", None), None)


def test_the_users_list_wins_over_the_refreshed_one_and_that_over_the_shipped_one(tmp_path: Path) -> None:
    assert choose_prices(None).path == SHIPPED
    write_prices(table("0.002"), refreshed_path())
    assert flex("NVIDIA L4")[0].per_second == Decimal("0.002")
    write_prices(table("0.003"), tmp_path / "own.json")
    price, _ = find_price("NVIDIA L4", 1, kind="flex", override=None, prices_file=tmp_path / "own.json")
    assert price == Price(Decimal("0.003"), "flex", "2026-07-01")


def test_a_pool_whose_gpus_differ_in_price_names_no_price() -> None:
    rows = (Row("MIXED", ("One",), Decimal(1)), Row("MIXED", ("Two",), Decimal(2)))
    assert PriceList("test", "2026-07-01", rows).find("mixed") is None
    assert PriceList("test", "2026-07-01", rows).find("two") == rows[1]


def test_a_written_list_reads_as_it_was(tmp_path: Path) -> None:
    shipped = read_prices(SHIPPED)
    write_prices(shipped, tmp_path / "deep" / "prices.json")
    again = read_prices(tmp_path / "deep" / "prices.json")
    assert (again.rows, again.date, again.active_date) == (shipped.rows, shipped.date, shipped.active_date)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["prices.json"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "Expecting"), ("[]", ""), ('{"source": "s", "prices": []}', "no prices"), ('{"prices": 3}', ""),
        ('{"source": "s", "date": "July", "prices": [{"gpus": ["L4"], "flex": "1"}]}', "July is no date"),
        ('{"source": "s", "date": "2026-07-01", "prices": [{"gpus": ["L4"], "flex": "free"}]}', ""),
        ('{"source": "s", "date": "2026-07-01", "prices": [{"gpus": ["L4"], "flex": -1}]}', "-1 is no price"),
        ('{"source": "s", "date": "2026-07-01", "prices": [{"gpus": ["L4"], "flex": NaN}]}', "nan is no price"),
        ('{"source": "s", "date": "2026-07-01", "prices": [{"gpus": "L4", "flex": 1}]}', "must be names"),
        ('{"source": "s", "date": "2026-07-01", "prices": [{"flex": 1}]}', "no 'gpus'"),
        ("\x80", ""),
    ],
)
def test_a_damaged_list_is_an_error_by_its_name_and_none_at_boot(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidPrices, match=re.escape(f"price list {path}: ") + f".*{fault}") as caught:
        choose_prices(path)
    assert "\n" not in str(caught.value)
    price, note = find_price("NVIDIA L4", 1, kind="flex", override=None, prices_file=path)
    assert price.per_second == Decimal("0.00019")
    assert note is not None
    assert str(path) in note
    assert "shipped" in note


def test_a_list_that_is_not_there_is_an_error_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidPrices, match="No such file"):
        choose_prices(tmp_path / "missing.json")


def test_a_list_with_numbers_for_prices_is_read_to_the_last_digit(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        '{"source": "me", "date": "2026-07-01", "prices": [{"gpus": ["X"], "flex": 0.000123456789012345678}]}'
    )
    assert read_prices(tmp_path / "p.json").rows[0].flex == Decimal("0.000123456789012345678")


def test_the_shipped_list_names_each_gpu_once() -> None:
    names = [name for entry in json.loads(SHIPPED.read_text())["prices"] for name in entry["gpus"]]
    assert len(set(names)) == len(names)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="file"):
        write_prices(table("1"), tmp_path / "file" / "prices.json")


def table(flex_price: str) -> PriceList:
    return PriceList("test", "2026-07-01", (Row("AMPERE_24", ("NVIDIA L4",), Decimal(flex_price)),))
