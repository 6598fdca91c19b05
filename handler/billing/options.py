"""Options that several of `pilotlight bill`'s commands have, and how their texts are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.display import progress
from engine.errors import PilotlightError
from handler.billing.default_ledger import OFF, default_ledger


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


def ledger_place(given: str | None) -> str:
    """The ledger's place: the one given, else where this machine writes.

    Raises:
        NoLedger: it writes none.
    """
    place = given or default_ledger()
    if place == OFF:
        raise NoLedger("PILOTLIGHT_LEDGER is off: name a ledger")
    return place


def readable_ledger(given: str | None) -> str:
    """The place of a ledger to read.

    Raises:
        NoLedger: nothing has been written where this machine writes.
    """
    place = ledger_place(given)
    if place.startswith("file://") and not given and not Path(place.removeprefix("file://")).exists():
        raise NoLedger(f"nothing is recorded at {place} yet: `pilotlight serve` writes there, --from reads elsewhere")
    return place


def display(quiet: bool) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    """What shows how far something of so many parts has come."""
    return lambda what, total: progress(what, total, quiet)


def write_json(fields: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")
