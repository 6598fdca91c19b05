"""`pilotlight bill` beyond the report: export, verify, reconcile, prices. Each is a thin call into one file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from engine.display import note, progress, working
from engine.errors import PilotlightError
from handler.billing.default_ledger import OFF, default_ledger

if TYPE_CHECKING:
    from handler.billing.reading.verify import Verification


class NoLedger(PilotlightError):
    """There is nothing to read where the ledger should be."""


def parse_price(text: str) -> Decimal:
    """US dollars per second.

    Raises:
        typer.BadParameter: it is no amount.
    """
    try:
        price = Decimal(text)
    except InvalidOperation:
        price = Decimal(-1)
    if not price.is_finite() or price < 0:
        raise typer.BadParameter(f"{text} is no price; write dollars per second, like 0.00031")
    return price


From = Annotated[
    str | None,
    typer.Option("--from", metavar="PLACE", help="s3://BUCKET/PREFIX or a folder; default: where this machine writes."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]


def prices(
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask RunPod's catalogue; needs RUNPOD_API_KEY.")] = False,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Where to write the list; default: your settings.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """The price list that workers on this machine use, and where it is from."""
    from handler.billing.price_list import choose_prices, refreshed_path, write_prices
    from handler.billing.reading.prices import fetch_prices, show_prices
    from handler.billing.runpod_api import RunPodApi

    own = os.environ.get("PILOTLIGHT_PRICES")
    if refresh:
        api = RunPodApi.from_environment()
        with working(f"asking {api.place}", as_json):
            table = fetch_prices(api)
        out = out or refreshed_path()
    else:
        table = choose_prices(Path(own) if own else None)
    if out is not None:
        write_prices(table, out)
        note([f"written to {out}"])
    if refresh and own:
        note([f"PILOTLIGHT_PRICES names {own}: that list is still the one in use"])
    if as_json:
        _write_json(table.as_dict() | {"file": str(out or table.path)})
    else:
        show_prices(table)


def verify(place: From = None, as_json: JsonOption = False) -> None:
    """Check every object and every line of a ledger, and that they add up."""
    from handler.billing.reading.verify import verify as find_problems
    from handler.billing.segment import UNDER
    from handler.billing.store import open_store

    store = open_store(ledger_place(place))
    with working("listing", as_json):
        objects = sum(1 for _ in store.keys(UNDER))
    if not objects:
        raise NoLedger(f"{store.place} holds no ledger: there is nothing under {UNDER}")
    with progress("objects", objects, as_json) as advance:
        found = find_problems(store, advance)
    if as_json:
        _write_json({"ok": found.ok, "problems": [asdict(p) for p in found.problems], "counts": found.counts})
    else:
        _say_verified(store.place, found)
    if not found.ok:
        raise typer.Exit(1)


def reconcile(
    place: From = None,
    endpoint: Annotated[str | None, typer.Option(metavar="ID", help="This endpoint alone.")] = None,
    since: Annotated[datetime | None, typer.Option(help="First hour, in UTC; default: the ledger's.")] = None,
    until: Annotated[datetime | None, typer.Option(help="End of the last hour, in UTC; default: the ledger's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hold the ledger against what RunPod billed, hour by hour. Needs RUNPOD_API_KEY."""
    from handler.billing.reading.ledger import open_ledger
    from handler.billing.reading.reconcile import booked_hours, compare, show_comparison, total, whole_hours
    from handler.billing.runpod_api import RunPodApi

    api = RunPodApi.from_environment()
    with working("reading the ledger", as_json), open_ledger(ledger_place(place)) as ledger:
        booked = booked_hours(ledger, endpoint)
    first, end = whole_hours(_utc(since), _utc(until), booked)
    with working(f"asking {api.place}", as_json):
        hours = compare(booked, api.billed(first, end, endpoint), first, end)
    if as_json:
        _write_json({"hours": [hour.as_dict() for hour in hours], "total": total(hours).as_dict()})
    else:
        show_comparison(hours, first, end)


def ledger_place(given: str | None) -> str:
    """The ledger to read: the one given, else the one that is written.

    Raises:
        NoLedger: none is.
    """
    place = given or default_ledger()
    if place == OFF:
        raise NoLedger("PILOTLIGHT_LEDGER is off: name a ledger with --from")
    return place


def _say_verified(place: str, found: Verification) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"{problem.kind}: {problem.where}: {problem.detail}", markup=False)
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts.items() if count)
    console.print(f"{place} {'is whole' if found.ok else 'has problems'}: {told}", markup=False)


def _utc(moment: datetime | None) -> datetime | None:
    from datetime import UTC

    return None if moment is None else moment.replace(tzinfo=UTC)


@contextmanager
def _opened(out: str) -> Iterator[TextIO]:
    """The file to write, or standard output for `-`."""
    if out == "-":
        yield sys.stdout
        return
    with Path(out).open("w", newline="", encoding="utf-8") as file:
        yield file


def _write_json(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
