"""What RunPod asks for a GPU's second: a dated table, shipped as data, and how a worker finds its price there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from engine.errors import PilotlightError
from handler.billing.price import Price, PriceKind, plain
from handler.billing.replacing import replacing

SHIPPED = Path(__file__).with_name("prices.json")
"""The table of RunPod's documentation, of the date it states."""

_DECORATION = {"nvidia", "geforce", "rtx", "generation"}
"""Words that RunPod, the driver and people write or leave out; no two GPUs differ by them alone."""


class InvalidPrices(PilotlightError):
    """A price list that cannot be read, or says what no price list says."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of GPU costs, in US dollars per second and GPU.

    Attributes:
        pool: RunPod's id of the pool; None where it is not published.
        gpus: names of the GPUs in it.
        active: of workers that are always there; None where RunPod names no such price.
    """

    pool: str | None
    gpus: tuple[str, ...]
    flex: Decimal
    active: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of one day.

    Attributes:
        source: who said so.
        date: of the flex prices, YYYY-MM-DD.
        active_date: of the active prices.
        path: the file it was read from.
    """

    source: str
    date: str
    rows: tuple[Row, ...]
    active_date: str | None = None
    path: Path | None = None

    def find(self, gpu: str) -> Row | None:
        """The row of a GPU or a pool; None where there is none, or there are several at different prices."""
        wanted = _essence(gpu)
        rows = [row for row in self.rows if any(_essence(name) == wanted for name in _names(row))]
        return rows[0] if rows and len({(row.flex, row.active) for row in rows}) == 1 else None

    def as_dict(self) -> dict[str, Any]:
        """The table as it stands in its file."""
        prices = [
            {
                "pool": row.pool, "flex": plain(row.flex), "active": None if row.active is None else plain(row.active),
                "gpus": list(row.gpus),
            }
            for row in self.rows
        ]
        return {"source": self.source, "date": self.date, "active_date": self.active_date, "prices": prices}


def find_price(
    gpu: str | None, gpu_count: int, *, kind: PriceKind, override: Decimal | None, prices_file: Path | None
) -> tuple[Price, str | None]:
    """The price of a worker, all its GPUs together, and what its user should know of it, in one line.

    A price list that cannot be read is no reason not to boot: the shipped one serves, and the line says so.

    Args:
        gpu: as RunPod, the driver or the user names it, or a pool's id.
        override: what the user says the worker costs, in US dollars per second.
        prices_file: the user's price list; None: the refreshed one, or else the shipped one.
    """
    if override is not None:
        return Price(override, kind, None), None
    table, damage = _readable(prices_file)
    price, doubt = _priced(table, gpu, gpu_count, kind)
    return price, "; ".join(line for line in (damage, doubt) if line) or None


def choose_prices(prices_file: Path | None) -> PriceList:
    """The price list in use: the user's, or else the refreshed one, or else the shipped one.

    Raises:
        InvalidPrices: it cannot be read.
    """
    if prices_file is not None:
        return read_prices(prices_file)
    refreshed = refreshed_path()
    return read_prices(refreshed if refreshed.exists() else SHIPPED)


def refreshed_path(environment: Mapping[str, str] = os.environ) -> Path:
    """Where `pilotlight bill prices --refresh` writes (XDG base directory specification)."""
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - knows no home, too.
    return Path(home) / "pilotlight" / "prices.json"


def read_prices(path: Path) -> PriceList:
    """Read a price list.

    Raises:
        InvalidPrices: one line naming the file and its fault.
    """
    try:
        return _parse(json.loads(path.read_bytes(), parse_float=Decimal), path)
    except OSError as error:
        raise InvalidPrices(f"price list {path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, InvalidOperation) as error:
        fault = f"it has no {error}" if isinstance(error, KeyError) else str(error) or "not a price list"
        raise InvalidPrices(f"price list {path}: {fault}") from None


def write_prices(table: PriceList, path: Path) -> None:
    """Put the table in place of what is there, all of it or nothing.

    Raises:
        OSError: the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(json.dumps(table.as_dict(), indent=2) + "\n")


def _readable(prices_file: Path | None) -> tuple[PriceList, str | None]:
    try:
        return choose_prices(prices_file), None
    except InvalidPrices as error:
        return read_prices(SHIPPED), f"{error}: the shipped price list serves instead"


def _priced(table: PriceList, gpu: str | None, gpu_count: int, kind: PriceKind) -> tuple[Price, str | None]:
    if gpu is None:
        return Price(kind=kind), _unknown("no GPU is named")
    row = table.find(gpu)
    if row is None:
        return Price(kind=kind), _unknown(f"{gpu!r} is not in the price list of {table.date}")
    if kind == "active" and row.active is not None:
        return Price(row.active * gpu_count, "active", table.active_date), _former(table)
    price = Price(row.flex * gpu_count, "flex", table.date)
    return price, None if kind == "flex" else _no_active(gpu)


def _unknown(why: str) -> str:
    return f"{why}: seconds are recorded without a cost; PILOTLIGHT_PRICE sets dollars per second of a worker"


def _former(table: PriceList) -> str:
    return f"the price of active workers is of {table.active_date}; PILOTLIGHT_PRICE sets what you pay"


def _no_active(gpu: str) -> str:
    return f"no price of active workers is known for {gpu!r}: the flex price serves; PILOTLIGHT_PRICE sets what you pay"


def _names(row: Row) -> Iterator[str]:
    yield from row.gpus
    if row.pool:
        yield row.pool


def _essence(name: str) -> str:
    """A name without what people write differently: case, `+` for a space, hyphens, the maker's words."""
    words = re.split(r"[\s+_-]+", name.strip().lower())
    return " ".join(word for word in words if word and word not in _DECORATION)


def _parse(content: Any, path: Path) -> PriceList:
    rows = tuple(_row(entry) for entry in content["prices"])
    if not rows:
        raise ValueError("it has no prices")
    active_date = content.get("active_date")
    return PriceList(
        str(content["source"]), _date(content["date"]), rows, _date(active_date) if active_date else None, path
    )


def _row(entry: Mapping[str, Any]) -> Row:
    pool, gpus, active = entry.get("pool"), entry["gpus"], entry.get("active")
    if not isinstance(gpus, list) or not all(isinstance(name, str) for name in [*gpus, pool or ""]):
        raise ValueError("pool and gpus must be names")
    return Row(pool, tuple(gpus), _amount(entry["flex"]), None if active is None else _amount(active))


def _amount(value: object) -> Decimal:
    amount = Decimal(str(value))
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"{value} is no price")
    return amount


def _date(value: object) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError(f"{value} is no date; write it like 2026-06-08")
    return str(value)
