"""The report in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from handler.billing.reading.figures import PHASES, Report
from handler.billing.reading.words import (
    amounts,
    count,
    dollars,
    duration,
    headline,
    key_names,
    notes,
    percent,
    printable,
    starts_line,
)

COLOURS = {"execution": "blue", "boot": "magenta", "idle": "yellow", "drain": "cyan", "rounding": "bright_black"}
_BAR = 24
"""Cells."""
_NAMES = 40
"""Cells for all of a group's names together: a tenant may be a hash, and the money beside it is what is looked for."""
_MOST_GROUPS, _MOST_BOOTS = 40, 5
_LONGEST_SPANS = 3


def show(report: Report, console: Console) -> None:
    """Print it: what it cost, where that went, and the groups."""
    console.print(Text(headline(report), style="bold"))
    for part in _parts(report, console.width):
        console.print()
        console.print(part)
    for note in notes(report):
        console.print(Text(note, style="yellow"))


def _parts(report: Report, width: int) -> Iterator[RenderableType]:
    if report.whole.spending.total_ms:
        yield Group(_phases(report), Text(starts_line(report)))
    if report.groups:
        more = len(report.groups) - _MOST_GROUPS
        told = [Text(f"and {more} more; --json has all", style="dim")] if more > 0 else []
        yield Group(_groups(report, width), *told)
    if report.whole.work.requests:
        yield _delays(report)
    if report.boots:
        yield _boots(report)


def _phases(report: Report) -> Table:
    """What each phase took, and a bar for its share of the time."""
    table = _table("", "cost", "seconds", "share")
    table.add_column(width=_BAR, no_wrap=True)
    spending, warmups = report.whole.spending, report.whole.warmups
    for phase in sorted(PHASES, key=lambda phase: -spending.ms[phase]):
        ms = spending.ms[phase]
        bar = Text(_blocks(ms / spending.total_ms), style=COLOURS[phase])
        cost = dollars(spending.cost_of(phase))
        table.add_row(phase, cost, f"{ms / 1000:,.3f}", percent(ms, spending.total_ms), bar)
    cost = dollars(None if spending.cost is None else warmups.cost)
    seconds, share = f"{warmups.total_ms / 1000:,.3f}", percent(warmups.total_ms, spending.total_ms)
    table.add_row("of which warm-ups", cost, seconds, share, style="dim")
    return table


def _blocks(share: float) -> str:
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _groups(report: Report, width: int) -> Table:
    """The groups, with as many columns as there is room for."""
    names = ("cost", "share", "requests", "execution", "seconds", "output tokens", "per 1,000")
    for columns in range(len(names), 2, -1):
        table = _table(*report.by, *names[:columns], left=len(report.by))
        for group in report.groups[:_MOST_GROUPS]:
            keys = (Text(name) for name in key_names(group, report.by))
            told = islice(amounts(group, report.whole), columns)
            table.add_row(*keys, *told, style="dim" if group.no_request else None)
        if Measurement.get(Console(width=1000), Console(width=1000).options, table).maximum <= width:
            break
    return table


def _delays(report: Report) -> Table:
    """What users waited for their first tokens, by what they found."""
    table = _table("first token after", "p50", "p95", "p99", "in the queue, p95")
    for kind, delay in report.first_token_ms.items():
        values = (delay["p50"], delay["p95"], delay["p99"], report.queue_ms[kind]["p95"])
        if any(value is not None for value in values):
            table.add_row(kind, *("-" if value is None else f"{value / 1000:,.3f} s" for value in values))
    return table


def _boots(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"newest of {count(report.cold_starts, 'cold start')}",
                  title_justify="left", title_style="bold")
    for name, right in (("at", False), ("worker", False), ("ready after", True), ("cost", True), ("longest", False)):
        table.add_column(name, justify="right" if right else "left", header_style="dim")
    for boot in report.boots[:_MOST_BOOTS]:
        spans = sorted(boot.spans, key=lambda span: span["start_s"] - span["end_s"])[:_LONGEST_SPANS]
        longest = ", ".join(f"{printable(span['name'])} {span['end_s'] - span['start_s']:.2f}" for span in spans)
        table.add_row(f"{boot.began:%Y-%m-%d %H:%M:%S}", Text(printable(boot.worker)), duration(boot.ready_ms),
                      dollars(boot.cost), Text(longest, style="dim"))
    return table


def _table(*columns: str, left: int = 1) -> Table:
    """Names on the left, amounts on the right."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        is_text = number < left
        table.add_column(
            name, justify="left" if is_text else "right", header_style="dim", no_wrap=True,
            max_width=_NAMES // left if is_text else None,
        )
    return table
