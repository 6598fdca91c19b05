"""`pilotlight bill verify` and `reconcile`: whether the ledger is whole, and whether RunPod says the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from engine.display import progress, working
from handler.billing.options import (
    From,
    JsonOption,
    NoLedger,
    Since,
    Until,
    display,
    readable_ledger,
    write_json,
)

if TYPE_CHECKING:
    from handler.billing.reading.verify import Verification


def verify(place: From = None, as_json: JsonOption = False) -> None:
    """Check every object and every line of a ledger, and that they add up."""
    from handler.billing.reading.verify import verify as find_problems
    from handler.billing.segment import UNDER
    from handler.billing.store import open_store

    store = open_store(readable_ledger(place))
    with working("listing", as_json):
        objects = sum(1 for _ in store.keys(UNDER))
    if not objects:
        raise NoLedger(f"{store.place} holds no ledger: there is nothing under {UNDER}")
    with progress("objects", objects, as_json) as advance:
        found = find_problems(store, advance)
    if as_json:
        write_json({"ok": found.ok, "problems": [asdict(p) for p in found.problems], "counts": found.counts})
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
    from handler.billing.reading.objects import EARLIEST, Period
    from handler.billing.reading.reconcile import HOUR, booked_hours, compare, show_comparison, total, whole_hours
    from handler.billing.runpod_api import RunPodApi

    api = RunPodApi.from_environment()
    period = Period.of(since, until)
    # A stretch that began in the hour before reaches into the first one.
    early = period.since and max(period.since - HOUR, EARLIEST)
    with open_ledger(readable_ledger(place), early, until, display(as_json)) as ledger:
        booked = booked_hours(ledger, endpoint)
    first, end = whole_hours(period.since, period.until, booked)
    with working(f"asking {api.place}", as_json):
        hours = compare(booked, api.billed(first, end, endpoint), first, end)
    if as_json:
        write_json({"hours": [hour.as_dict() for hour in hours], "total": total(hours).as_dict()})
    else:
        show_comparison(hours, first, end)


def _say_verified(place: str, found: Verification) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for problem in found.problems:
        console.print(f"{problem.kind}: {problem.where}: {problem.detail}", markup=False)
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts.items() if count)
    console.print(f"{place} {'is whole' if found.ok else 'has problems'}: {told}", markup=False)
