"""`pilotlight bill` beyond the report: export, verify, reconcile, prices. Each is a thin call into one file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import date, datetime
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


def parse_moment(text: str) -> date:
    """A day, or a moment in UTC unless it says otherwise.

    Raises:
        typer.BadParameter: it is neither.
    """
    try:
        return date.fromisoformat(text) if len(text) <= len("2026-11-21") else datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is no day like 2026-11-21, nor a moment like 2026-11-21T10:00") from None


def parse_folder(text: str) -> str:
    """A place on this machine, or `-`.

    Raises:
        typer.BadParameter: it is an address.
    """
    if "://" in text:
        raise typer.BadParameter(f"{text} is an address: write a file or a folder on this machine")
    return text


From = Annotated[
    str | None,
    typer.Option("--from", metavar="PLACE", help="s3://BUCKET/PREFIX or a folder; default: where this machine writes."),
]
Since = Annotated[
    date | None, typer.Option("--since", parser=parse_moment, metavar="DAY", help="First day, in UTC; or a moment.")
]
Until = Annotated[
    date | None, typer.Option("--until", parser=parse_moment, metavar="DAY", help="Last day; or the moment it ends.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]


def prices(
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask RunPod's catalogue; needs RUNPOD_API_KEY.")] = False,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Gets the list; default: your settings.")
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
    since: Since = None,
    until: Until = None,
    as_json: JsonOption = False,
) -> None:
    """Hold the ledger against what RunPod billed, hour by hour. Needs RUNPOD_API_KEY."""
    from handler.billing.reading.ledger import open_ledger
    from handler.billing.reading.objects import Period
    from handler.billing.reading.reconcile import HOUR, booked_hours, compare, show_comparison, total, whole_hours
    from handler.billing.runpod_api import RunPodApi

    api = RunPodApi.from_environment()
    period = Period.of(since, until)
    # A stretch that began in the hour before reaches into the first one.
    early = period.since and period.since - HOUR
    with open_ledger(ledger_place(place), early, period.until, _display(as_json)) as ledger:
        booked = booked_hours(ledger, endpoint)
    first, end = whole_hours(period.since, period.until, booked)
    with working(f"asking {api.place}", as_json):
        hours = compare(booked, api.billed(first, end, endpoint), first, end)
    if as_json:
        _write_json({"hours": [hour.as_dict() for hour in hours], "total": total(hours).as_dict()})
    else:
        show_comparison(hours, first, end)


def export(
    form: Annotated[Literal["focus", "parquet"], typer.Option("--format", help="FOCUS 1.2, or Parquet.")],
    out: Annotated[
        str, typer.Option(parser=parse_folder, metavar="FILE", help="- is standard output; of Parquet, the folder.")
    ],
    place: From = None,
    since: Since = None,
    until: Until = None,
    price: Annotated[
        Decimal | None,
        typer.Option(parser=parse_price, metavar="DOLLARS", help="FOCUS: per second of a worker, where none is known."),
    ] = None,
    account_id: Annotated[str, typer.Option(metavar="ID", help="FOCUS: who pays.")] = "runpod",
    account_name: Annotated[str, typer.Option(metavar="NAME", help="FOCUS: their name.")] = "RunPod account",
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Parquet: also today, which is not over.")] = False,
) -> None:
    """The ledger for other systems: a row a charge for FinOps, or a Parquet file a day for any engine."""
    if form == "parquet":
        _export_parquet(place, since, until, Path(out), unfinished=unfinished)
        return
    from handler.billing.reading.focus import Account, write_focus
    from handler.billing.reading.ledger import open_ledger

    account = Account(account_id, account_name, price)
    with open_ledger(ledger_place(place), since, until, _display(False)) as ledger, _written(out) as file:
        with working(f"reading {ledger.objects:,} objects", False):
            rows = write_focus(ledger, file, account)
        skipped = [path.name for path in ledger.skipped]
    note([f"{rows:,} rows", *(f"left out, as it cannot be unpacked: {name}" for name in skipped)])


def _export_parquet(
    place: str | None, since: date | None, until: date | None, out: Path, *, unfinished: bool
) -> None:
    from handler.billing.reading.compaction import choose_days, compact_days
    from handler.billing.store import open_store

    place = ledger_place(place)
    days = choose_days(open_store(place), _day(since), _day(until), unfinished=unfinished)
    with progress("days", len(days), False) as advance:
        done = list(compact_days(place, days, out, advance))
    for day in done:
        sys.stdout.write(f"{day.path}: {day.lines:,} lines, {day.bytes:,} bytes\n")
        note(f"left out, as it cannot be unpacked: {name}" for name in day.skipped)
    if not done:
        note([f"{place} has no lines of days that are over"])


def _day(moment: date | None) -> date | None:
    return moment.date() if isinstance(moment, datetime) else moment


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


@contextmanager
def _written(out: str) -> Iterator[TextIO]:
    """A file that is there whole or not at all, or standard output for `-`."""
    if out == "-":
        yield sys.stdout
        return
    path = Path(out)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _display(quiet: bool) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    return lambda what, total: progress(what, total, quiet)


def _write_json(fields: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
