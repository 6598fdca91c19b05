"""`pilotlight bill export`: the ledger for other systems."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import typer

from engine.display import note, progress, working
from handler.billing.options import From, Since, Until, display, parse_folder, parse_price, readable_ledger
from handler.billing.replacing import replacing_text


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
    with (
        nullcontext(sys.stdout) if out == "-" else replacing_text(Path(out)) as file,
        open_ledger(readable_ledger(place), since, until, display(False)) as ledger,
    ):
        with working(f"reading {ledger.objects:,} objects", False):
            rows = write_focus(ledger, file, account)
        left_out = ledger.left_out()
    note([f"{rows:,} rows", *left_out])


def _export_parquet(
    place: str | None, since: date | None, until: date | None, out: Path, *, unfinished: bool
) -> None:
    from handler.billing.reading.compaction import choose_days, compact_days
    from handler.billing.store import open_store

    place = readable_ledger(place)
    days = choose_days(open_store(place), _day(since), _day(until), unfinished=unfinished)
    with progress("days", len(days), False) as advance:
        done = list(compact_days(place, days, out, advance))
    for day in done:
        sys.stdout.write(f"{day.path}: {day.lines:,} lines, {day.bytes:,} bytes\n")
        note(f"left out, as it cannot be unpacked: {name}" for name in day.skipped)
    if not done:
        note([f"{place} has no lines of days that are over; --unfinished takes today too"])


def _day(moment: date | None) -> date | None:
    return moment.date() if isinstance(moment, datetime) else moment
