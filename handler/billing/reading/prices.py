"""The price list in use, and a fresh one from RunPod's catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

from handler.billing.price_list import PriceList, Row
from handler.billing.reading.words import printable
from handler.billing.runpod_api import CataloguedGpu, RunPodApi, RunPodTrouble

_DIGITS = Decimal("1e-12")
"""Of a dollar a second. An hour's price through 3,600 has no end; this is off by less than 0.00002 dollars a year."""


def fetch_prices(api: RunPodApi, today: str | None = None) -> PriceList:
    """What RunPod's catalogue asks for serverless workers, which is the flex price.

    Args:
        today: the list's date, YYYY-MM-DD; default: the present in UTC.

    Raises:
        RunPodTrouble: there is no answer, or no GPU with a price in it.
    """
    rows = tuple(_rows(api.gpus()))
    if not rows:
        raise RunPodTrouble(f"the catalogue at {api.place} names no GPU with a serverless price")
    return PriceList(f"catalogue of GPUs at {api.place}", today or datetime.now(UTC).strftime("%Y-%m-%d"), rows)


def show_prices(table: PriceList) -> None:
    """The price list on standard output, for a person."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    active_of = f" ({table.active_date})" if table.active_date else ""
    view = Table("pool", "GPUs", box=None, title=Text(printable(f"{table.source}, {table.date}")), title_justify="left")
    for heading in ("flex $/s", "$/h", f"active $/s{active_of}"):
        view.add_column(heading, justify="right")
    for row in table.rows:
        gpus = ", ".join(name.removeprefix("NVIDIA ") for name in row.gpus)
        active = "" if row.active is None else f"{row.active:f}"
        names = (Text(printable(name)) for name in (row.pool or "", gpus))
        view.add_row(*names, f"{row.flex:f}", f"{row.flex * 3600:.3f}", active)
    console = Console(highlight=False)
    console.print(view)
    if table.path:
        console.print(f"from {table.path}", markup=False)


def _rows(gpus: Iterable[CataloguedGpu]) -> Iterable[Row]:
    """A row for each pool and price, of all the GPUs that share them."""
    names: dict[tuple[str | None, Decimal], dict[str, None]] = {}
    for gpu in gpus:
        if gpu.gpu and gpu.per_hour is not None and gpu.per_hour > 0:
            price = (gpu.per_hour / 3600).quantize(_DIGITS)
            names.setdefault((gpu.pool, price), {}).update({gpu.gpu: None, gpu.name: None})
    return (Row(pool, tuple(gpus), price) for (pool, price), gpus in names.items())
