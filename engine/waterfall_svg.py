"""A boot as an SVG picture, legible on light and on dark pages: a bar a span, on one axis of time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, takewhile
from xml.sax.saxutils import escape

from engine.boot_runs import Measurement
from engine.boot_words import closing, floor_name, heading
from engine.waterfall_rows import Row, describe_seconds, rows

_WIDTH, _NAMES, _BARS, _LINE, _TOP = 1080, 230, 500, 22, 74
"""Pixels: the whole, the column of names, that of bars, one line, and what stands above the first."""

_COLOURS = {
    "interpreter": "#a371f7", "import": "#3b82f6", "prefetch": "#06a5b8", "weights": "#06a5b8", "first": "#2da44e",
    "deferred": "#8b949e",
}
"""By the first word of a span's name; each has contrast enough on white and on black."""
_OTHER_COLOUR = "#d9822b"

_STYLE = """
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1f2328 }
.page { fill: #ffffff } .heading { font-weight: 600 } .note { fill: #57606a; font-size: 12px }
.grid { stroke: #d0d7de } .floor { stroke: #cf222e; stroke-dasharray: 4 3 } .floor-name { fill: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .page { fill: #0d1117 } .note { fill: #9198a1 } .grid { stroke: #3d444d }
  .floor { stroke: #ff7b72 } .floor-name { fill: #ff7b72 }
}
"""


def svg(measurement: Measurement) -> str:
    """The picture of the run in the middle, a whole document."""
    lines = rows(measurement.shown.spans)
    words = closing(measurement)
    bottom = _TOP + _LINE * len(lines)
    height = bottom + 30 + _LINE * len(words)
    title = escape(heading(measurement))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img">',
        f"<title>{title}</title><style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(16, 26, title, "heading"),
        *_grid(measurement, bottom),
        *(part for number, row in enumerate(lines) for part in _line(row, _TOP + _LINE * number, measurement.end_s)),
        *_floor(measurement, bottom),
        *(_text(16, bottom + 30 + _LINE * number, escape(words[number])) for number in range(len(words))),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _x(seconds: float, end_s: float) -> float:
    return round(_NAMES + _BARS * seconds / end_s, 1)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


def _grid(measurement: Measurement, bottom: int) -> Iterator[str]:
    """Lines at round seconds, from four to nine of them."""
    end_s = measurement.end_s
    step = next(step for step in _round_steps() if end_s / step < 10)
    for moment in takewhile(lambda moment: moment <= end_s, (number * step for number in count())):
        x = _x(moment, end_s)
        yield f'<line class="grid" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{bottom}"/>'
        yield _text(x, _TOP - 12, f"{moment:g} s", "note", "middle")


def _round_steps() -> Iterator[float]:
    """0.01, 0.02, 0.05, 0.1 and so on."""
    return (round(digit * 10.0**power, 3) for power in count(-2) for digit in (1, 2, 5))


def _line(row: Row, y: int, end_s: float) -> Iterator[str]:
    """Name, bar, and what is said beside it."""
    start, end = _x(row.span.start_s, end_s), _x(row.span.end_s, end_s)
    colour = _COLOURS.get(row.kind, _OTHER_COLOUR)
    middle = y + _LINE // 2
    yield _text(16 + 14 * row.depth, middle + 4, escape(_shortened(row.span.name)))
    if row.is_mark:
        yield f'<path fill="{colour}" d="M{start} {middle - 6} l6 6 l-6 6 l-6 -6 z"/>'
    else:
        width = round(max(1.5, end - start), 1)
        yield f'<rect fill="{colour}" x="{start}" y="{middle - 6}" width="{width}" height="12" rx="2"/>'
    yield _text(_NAMES + _BARS + 78, middle + 4, row.time, "", "end")
    yield _text(_NAMES + _BARS + 90, middle + 4, escape(row.note), "note")


def _shortened(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _floor(measurement: Measurement, bottom: int) -> Iterator[str]:
    floor_s = measurement.floor_s(measurement.shown)
    x = _x(floor_s, measurement.end_s)
    yield f'<line class="floor" x1="{x}" y1="{_TOP - 6}" x2="{x}" y2="{bottom}"/>'
    yield _text(16, _TOP - 28, escape(f"{floor_name(measurement)}, {describe_seconds(floor_s)}"), "floor-name")
