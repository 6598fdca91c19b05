"""A boot drawn in the terminal: a bar a span, on one axis of time."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from engine.boot_runs import Measurement
from engine.boot_words import closing, floor_name, heading
from engine.waterfall_rows import Row, rows

COLOURS = {
    "interpreter": "magenta", "import": "blue", "prefetch": "cyan", "weights": "cyan", "first": "green",
    "deferred": "bright_black",
}
"""By the first word of a span's name."""

_OTHER_COLOUR = "yellow"
_LONGEST_NAME, _TIMES, _NARROWEST_BARS = 34, 7, 20
"""Cells."""
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def draw(measurement: Measurement, console: Console) -> None:
    """Print the run in the middle, and what the runs have in common."""
    console.print(Text(heading(measurement), style="bold"))
    console.print(_picture(measurement, console))
    for line in closing(measurement):
        console.print(Text(line))


def _picture(measurement: Measurement, console: Console) -> RenderableType:
    floor_s, end_s = measurement.floor_s(measurement.shown), measurement.end_s
    lines = rows(measurement.shown.spans)
    names = min(_LONGEST_NAME, max(len(row.span.name) + 2 * row.depth for row in lines))
    notes = max(len(row.note) for row in lines)
    width = max(_NARROWEST_BARS, console.width - names - _TIMES - notes - 4)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
    table.add_column(width=names, no_wrap=True)
    table.add_column(width=width, no_wrap=True)
    table.add_column(width=_TIMES, no_wrap=True, justify="right")
    table.add_column(style="dim")  # In a narrow terminal this wraps rather than be cut.
    for row in lines:
        bar = _bar(row, width, floor_s / end_s, end_s, console.options.ascii_only)
        table.add_row("  " * row.depth + row.span.name, bar, row.time, row.note)
    return Group(table, Text(f"{floor_name(measurement)}, {floor_s:.3f} s (the broken line)", style="red"))


def _bar(row: Row, width: int, floor: float, end_s: float, ascii_only: bool) -> Text:
    """The floor's line with the span's bar over it."""
    cells = [" "] * width
    at = min(width - 1, int(floor * width))
    cells[at] = ":" if ascii_only else "┊"
    text = Text("".join(cells))
    text.stylize("red", at, at + 1)
    start = min(width - 1, int(row.span.start_s / end_s * width))
    if row.is_mark:
        blocks = "*" if ascii_only else "◆"
    else:
        blocks = _blocks(row.span.end_s / end_s * width - start, width - start, ascii_only)
    return Text.assemble(text[:start], (blocks, COLOURS.get(row.kind, _OTHER_COLOUR)), text[start + len(blocks):])


def _blocks(length: float, room: int, ascii_only: bool) -> str:
    """A bar of so many cells, to an eighth of one."""
    eighths = max(1, min(round(length * 8), room * 8))
    if ascii_only:
        return "#" * max(1, eighths // 8)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")
