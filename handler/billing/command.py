"""`pilotlight bill`: what the ledger says, and what keeps it whole."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.display import note, progress, working
from handler.billing.check_command import reconcile, verify
from handler.billing.export_command import export
from handler.billing.options import (
    From,
    JsonOption,
    Since,
    Until,
    display,
    ledger_place,
    readable_ledger,
    write_json,
)
from handler.billing.replacing import replacing_text

if TYPE_CHECKING:
    from handler.billing.reading.figures import Report
    from handler.billing.recovery import Recovered

app = typer.Typer(no_args_is_help=True, help="Where every billed second went, from the ledger.")
app.command()(export)
app.command()(verify)
app.command()(reconcile)

KEYS = ("hour", "day", "endpoint", "model", "worker", "tenant", "start_kind")
_THREE_OPEN_INTERVALS_S = 30.0


def parse_keys(given: list[str]) -> tuple[str, ...]:
    """What to group by, from texts such as `day` and `day,tenant`.

    Raises:
        typer.BadParameter: one is not known.
    """
    names = tuple(dict.fromkeys(name.strip().replace("-", "_") for text in given for name in text.split(",")))
    if unknown := [name for name in names if name not in KEYS]:
        raise typer.BadParameter(f"{unknown[0] or 'nothing'}: write some of {', '.join(KEYS)}", param_hint="--by")
    return names


@app.command()
def report(
    place: From = None,
    since: Since = None,
    until: Until = None,
    by: Annotated[
        list[str] | None, typer.Option(metavar="KEY,...", help=f"Group by some of {', '.join(KEYS)}; default: day.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, writable=True, metavar="FILE", help="Gets it as a page with plots.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Seconds by phase, cost, cold starts and delays, in groups.

    It trusts the lines that it can read; whether their checksums hold, `pilotlight bill verify` says.
    """
    from handler.billing.reading.ledger import open_ledger
    from handler.billing.reading.objects import Period
    from handler.billing.reading.report import make_report

    keys = parse_keys(by or ["day"])
    if Period.of(since, until).is_empty:
        raise typer.BadParameter("it ends before it begins", param_hint="--until")
    # A file that cannot be written is better known before the reading than after it.
    with nullcontext() if html is None else replacing_text(html) as file:
        ledger = open_ledger(readable_ledger(place), since, until, display(as_json))
        with ledger, working(f"reading {ledger.objects:,} objects", as_json):
            made = make_report(ledger, keys, hourly=html is not None)
        if file is not None:
            from handler.billing.reading.html import page

            file.write(page(made))
    _show(made, as_json)


def _show(made: Report, as_json: bool) -> None:
    """Write a report to standard output."""
    if as_json:
        from handler.billing.reading.contract import as_fields
        from handler.billing.reading.figures import exact_json
        from handler.billing.reading.words import notes

        sys.stdout.write(exact_json(as_fields(made)) + "\n")
        note(notes(made))
        return
    from rich.console import Console

    from handler.billing.reading.table import show

    show(made, Console(highlight=False))


@app.command()
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
        write_json(table.as_dict() | {"file": str(out or table.path)})
    else:
        show_prices(table)


@app.command()
def recover(
    folder: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Of journals, or one's.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="PLACE", help="The ledger; default: where this machine writes.")
    ] = None,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Leave those written to since; three open intervals.")
    ] = _THREE_OPEN_INTERVALS_S,
    as_json: JsonOption = False,
) -> None:
    """Bring what killed workers left in their journals to the ledger, and close their epochs.

    Journals of living workers are left as they are.
    """
    from dataclasses import asdict

    from handler.billing.recovery import journals, recover_journal
    from handler.billing.store import open_store

    store = open_store(ledger_place(to))
    folders = [folder] if _is_journal(folder) else journals(folder)
    with progress("journals", len(folders), as_json) as advance:
        results = []
        for journal in folders:
            results.append(recover_journal(journal, store, older_than))
            advance(1)
    if as_json:
        import json

        sys.stdout.write(json.dumps({"place": store.place, "journals": [asdict(one) for one in results]}) + "\n")
    else:
        sys.stdout.write("".join(f"{_told(one)}\n" for one in results) or f"no journals in {folder}\n")
    if any(one.skipped and not one.in_use for one in results):
        raise typer.Exit(1)


def _is_journal(folder: Path) -> bool:
    """Whether it is one boot's, not a folder of such."""
    from handler.billing.journal_folder import LOCK, all_segments

    return (folder / LOCK).exists() or bool(all_segments(folder))


def _told(one: Recovered) -> str:
    if one.skipped:
        return f"{one.boot}: left as it is: {one.skipped}"
    damaged = f", {one.damaged} damaged lines kept" if one.damaged else ""
    closed = "closed" if one.closed else "not closed"
    return f"{one.boot}: {one.segments} segments, {one.lines} lines, {closed}{damaged}"
