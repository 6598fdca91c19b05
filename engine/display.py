"""What commands show a person: figures, checks, spinners and bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.doctor import Check


def report(fields: dict[str, Any], as_json: bool) -> None:
    """Figures on standard output: one JSON object, or a line each for a person."""
    if as_json:
        sys.stdout.write(json.dumps(fields) + "\n")
        return
    for name, value in fields.items():
        sys.stdout.write(f"{name:<20} {_describe(value)}\n")


def _describe(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_describe(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_checks(checks: Iterable[Check]) -> None:
    """A line a check on standard output."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for check in checks:
        mark = "[green]yes[/]" if check.ok else "[red]NO[/]" if check.required else "[yellow]no[/]"
        table.add_row(mark, check.name, escape(check.detail))
    Console().print(table)


def note(lines: Iterable[str]) -> None:
    """Lines on standard error, beside the answer."""
    for line in lines:
        print(line, file=sys.stderr)


@contextmanager
def working(what: str, quiet: bool) -> Iterator[None]:
    """A spinner on standard error while something without a length runs, when somebody can see it."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def progress(unit: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, when somebody can see it; gives what advances it."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = quiet or not sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as bar:
        task = bar.add_task(unit, total=total)
        yield lambda count: bar.advance(task, count)
