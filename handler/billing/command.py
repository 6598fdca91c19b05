"""`pilotlight bill`: what the ledger says, and what keeps it whole."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.display import note, progress, working
from handler.billing import command_more
from handler.billing.command_more import From, JsonOption, ledger_place, parse_moment

if TYPE_CHECKING:
    from handler.billing.recovery import Recovered

app = typer.Typer(no_args_is_help=True, help="Where every billed second went, from the ledger.")
app.command()(command_more.export)
app.command()(command_more.verify)
app.command()(command_more.reconcile)
app.command()(command_more.prices)

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
    since: Annotated[
        date | None, typer.Option(parser=parse_moment, metavar="DAY", help="First day, in UTC; or a moment.")
    ] = None,
    until: Annotated[
        date | None, typer.Option(parser=parse_moment, metavar="DAY", help="Last day; or the moment it ends.")
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(metavar="KEY,...", help=f"Group by some of {', '.join(KEYS)}; default: day.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(dir_okay=False, writable=True, metavar="FILE", help="Gets it as a page with plots.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Seconds by phase, cost, cold starts and delays, in groups."""
    from handler.billing.reading.contract import as_fields
    from handler.billing.reading.figures import exact_json
    from handler.billing.reading.ledger import open_ledger
    from handler.billing.reading.objects import Period
    from handler.billing.reading.report import make_report
    from handler.billing.reading.words import notes

    keys = parse_keys(by or ["day"])
    if Period.of(since, until).is_empty:
        raise typer.BadParameter("it ends before it begins", param_hint="--until")
    if html is not None:
        html.touch()  # A file that cannot be written is better known before the reading than after it.
    shown = _display(as_json)
    ledger = open_ledger(ledger_place(place), since, until, shown)
    with ledger, working(f"reading {ledger.objects:,} objects", as_json):
        made = make_report(ledger, keys, hourly=html is not None)
    if html is not None:
        from handler.billing.reading.html import page

        html.write_text(page(made), encoding="utf-8")
    if as_json:
        sys.stdout.write(exact_json(as_fields(made)) + "\n")
        note(notes(made))
        return
    from rich.console import Console

    from handler.billing.reading.table import show

    show(made, Console(highlight=False))


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
    """Bring what killed workers left in their journals to the ledger, and close their epochs."""
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
    if any(one.skipped for one in results):
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


def _display(quiet: bool) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    return lambda what, total: progress(what, total, quiet)
