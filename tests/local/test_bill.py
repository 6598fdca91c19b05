"""The bill: seconds that have begun count whole, frozen ones not at all, and killing the endpoint loses none of it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.epochs import Moment
from handler.local.bill import LOST, Bill, DamagedBill, Total
from tests.disks import small_files

PRICE = Decimal("0.00031")


def at(seconds: float) -> Moment:
    return Moment(1_800_000_000 + seconds, 50 + seconds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bill.jsonl"


@pytest.mark.parametrize(
    ("lasted", "billed"), [(0.0, 0), (0.001, 1), (1.0, 1), (1.001, 2), (59.999, 60), (3600.0, 3600)]
)
def test_a_second_that_has_begun_is_billed(path: Path, lasted: float, billed: int) -> None:
    bill = Bill(path, PRICE)
    bill.start("w", at(0))
    bill.stop("w", "scaled down", at(lasted))
    assert bill.so_far(0) == Total(billed, billed * PRICE)


def test_each_worker_is_rounded_up_by_itself(path: Path) -> None:
    bill = Bill(path, PRICE)
    for worker in ("a", "b", "c"):
        bill.start(worker, at(0))
        bill.stop(worker, "scaled down", at(0.1))
    assert bill.so_far(0) == Total(3, 3 * PRICE)


def test_frozen_time_costs_nothing(path: Path) -> None:
    bill = Bill(path, PRICE)
    bill.start("w", at(0))
    bill.stop("w", "frozen", at(2.5))
    bill.start("w", at(1000))
    bill.stop("w", "scaled down", at(1001.2))
    assert [charge.seconds for charge in bill.charges()] == [3, 2]


def test_what_runs_is_counted_as_if_it_stopped_now(path: Path) -> None:
    bill = Bill(path)
    bill.start("w", at(0))
    assert bill.so_far(at(4.2).monotonic_s) == Total(5, Decimal(0))


def test_a_step_of_the_wall_clock_costs_nothing(path: Path) -> None:
    bill = Bill(path)
    bill.start("w", at(0))
    bill.stop("w", "scaled down", Moment(at(0).wall_s + 3600, at(2).monotonic_s))
    assert bill.so_far(0).seconds == 2


def test_the_file_says_all_of_it(path: Path) -> None:
    bill = Bill(path, PRICE)
    bill.start("w", at(0))
    bill.stop("w", "scaled down", at(2.5))
    start, stop = (json.loads(line) for line in path.read_text().splitlines())
    assert start == {"event": "start", "worker": "w", "at": "2027-01-15T08:00:00.000Z", "price": "0.00031"}
    assert stop == {
        "event": "stop", "worker": "w", "started": "2027-01-15T08:00:00.000Z", "ended": "2027-01-15T08:00:02.500Z",
        "ms": 2500, "seconds": 3, "price": "0.00031", "cost": "0.00093", "why": "scaled down",
    }


def test_the_next_endpoint_knows_the_charges_but_has_cost_nothing_yet(path: Path) -> None:
    first = Bill(path, PRICE)
    first.start("w", at(0))
    first.stop("w", "scaled down", at(2.5))
    first.close()
    second = Bill(path, PRICE * 2)
    assert second.charges() == first.charges()
    assert second.so_far() == Total(0, Decimal(0))


def test_what_ran_when_the_endpoint_was_killed_is_billed_up_to_its_last_line(path: Path) -> None:
    killed = Bill(path, PRICE)
    killed.start("a", at(0))
    killed.start("b", at(1))
    killed.stop("b", "scaled down", at(7))
    killed.close()
    [b, a] = Bill(path).charges()
    assert (a.worker, a.ms, a.price, a.why) == ("a", 7000, "0.00031", LOST)
    assert Bill(path).charges() == [b, a]


def test_and_up_to_when_it_was_last_seen_to_run(path: Path) -> None:
    killed = Bill(path, PRICE)
    killed.start("a", at(0))
    killed.mark(at(42))
    killed.close()
    [a] = Bill(path).charges()
    assert (a.ms, a.why) == (42_000, LOST)


def test_a_full_disk_stops_no_worker_and_loses_no_charge(path: Path) -> None:
    bill = Bill(path, PRICE)
    with small_files(50):
        bill.start("a", at(0))
        bill.stop("a", "scaled down", at(3))
        bill.start("b", at(4))
        assert path.stat().st_size == 50
    bill.mark(at(5))
    [a, b] = Bill(path).charges()
    assert (a.worker, a.ms, b.worker, b.ms) == ("a", 3000, "b", 1000)


def test_a_torn_last_line_is_cut_off(path: Path) -> None:
    bill = Bill(path)
    bill.start("w", at(0))
    bill.stop("w", "scaled down", at(1))
    with path.open("a") as file:
        file.write('{"event": "sta')
    again = Bill(path)
    again.start("v", at(2))
    again.stop("v", "scaled down", at(3))
    assert [charge.worker for charge in Bill(path).charges()] == ["w", "v"]


def test_a_damaged_file_is_named_with_its_line(path: Path) -> None:
    path.write_text('{"event": "start", "worker": "w", "at": "2027-01-15T08:00:00.000Z", "price": null}\nnonsense\n')
    with pytest.raises(DamagedBill, match=rf"{path} cannot be read, line 2"):
        Bill(path)


@given(st.lists(st.integers(0, 10_000_000), max_size=20))
def test_the_sum_is_exact(lives: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bill = Bill(Path(folder, "bill"), PRICE)
        for number, ms in enumerate(lives):
            bill.start(str(number), at(0))
            bill.stop(str(number), "", at(ms / 1000))
        seconds = sum(-(-ms // 1000) for ms in lives)
        assert bill.so_far(0) == Total(seconds, seconds * PRICE)
        assert Bill(Path(folder, "bill")).charges() == bill.charges()
