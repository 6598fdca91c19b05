"""The report's pictures, as SVG for its page. Colours are the page's classes, so that they follow its light or dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count, takewhile

from engine.percentiles import Percentiles
from engine.timeline import Span
from engine.waterfall_rows import describe_seconds, rows
from handler.billing.reading.figures import Boot

WIDTH = 960
"""Units of every picture; the page scales them."""
_LEFT, _RIGHT, _TOP = 70, 10, 10
_PLOT, _ROW = 180, 20
_MOST_LABELS, _LABEL = 8, 80


@dataclass(frozen=True, slots=True)
class Stack:
    """A bar: its label, its parts by class from the bottom up, and what it says when pointed at."""

    label: str
    parts: Mapping[str, float]
    title: str

    @property
    def height(self) -> float:
        return sum(self.parts.values())


def stacked_bars(name: str, unit: str, stacks: Sequence[Stack]) -> str:
    """Bars over time, one beside the other.

    Args:
        unit: stands before the axis' figures if it is `$`, behind them otherwise.
    """
    most = max((stack.height for stack in stacks), default=0.0) or 1.0
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(stacks))
    bars = (part for number, stack in enumerate(stacks) for part in _bar(stack, _LEFT + slot * number, slot, most))
    labels = _labels([stack.label for stack in stacks], slot)
    return _picture(name, _PLOT + _TOP + 24, [*_axis(most, unit), *bars, *labels])


def _bar(stack: Stack, x: float, slot: float, most: float) -> Iterator[str]:
    width, bottom = max(1.0, slot - min(2.0, slot / 4)), float(_TOP + _PLOT)
    yield f"<g><title>{escape(stack.title)}</title>"
    for name, value in stack.parts.items():
        height = _PLOT * value / most
        if height > 0:
            bottom -= height
            yield f'<rect class="{name}" x="{x:.1f}" y="{bottom:.1f}" width="{width:.1f}" height="{height:.2f}"/>'
    yield f'<rect class="hit" x="{x:.1f}" y="{_TOP}" width="{slot:.1f}" height="{_PLOT}"/></g>'


def _axis(most: float, unit: str) -> Iterator[str]:
    """Lines at round figures, from two to five of them."""
    step = next(step for step in _round_steps() if most / step < 5)
    for value in takewhile(lambda value: value <= most * 1.0001, (number * step for number in count())):
        y = _TOP + _PLOT * (1 - value / most)
        told = f"${value:,g}" if unit == "$" else f"{value:,g} {unit}".strip()
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 6, y + 4, told, "note", "end")


def _round_steps() -> Iterator[float]:
    return (float(f"{digit}e{power}") for power in count(-12) for digit in (1, 2, 5))


def _labels(labels: Sequence[str], slot: float) -> Iterator[str]:
    every = -(-len(labels) // _MOST_LABELS)
    for number, label in enumerate(labels):
        x = _LEFT + slot * number
        if number % every == 0 and x < WIDTH - _LABEL:
            yield _text(x, _TOP + _PLOT + 18, escape(label), "note")


def delays(name: str, by_kind: Mapping[str, Percentiles]) -> str:
    """For each start kind a line from the median to p99, with a dot at p95."""
    told = {kind: delay for kind, delay in by_kind.items() if delay["p50"] is not None}
    most = max((delay["p99"] or 0.0 for delay in told.values()), default=0.0) or 1.0
    parts = [
        part for number, (kind, delay) in enumerate(told.items())
        for part in _delay(kind, delay, _TOP + 14 + _ROW * 1.4 * number, (WIDTH - _LEFT - 300) / most)
    ]
    return _picture(name, round(_TOP + _ROW * 1.4 * len(told) + 10), parts)


def _delay(kind: str, delay: Percentiles, y: float, scale: float) -> Iterator[str]:
    p50, p95, p99 = (delay["p50"] or 0.0), (delay["p95"] or 0.0), (delay["p99"] or 0.0)
    start, width = _LEFT + p50 * scale, max(2.0, (p99 - p50) * scale)
    yield _text(_LEFT - 6, y + 4, escape(kind), "", "end")
    yield f'<rect class="execution" x="{start:.1f}" y="{y - 5:.1f}" width="{width:.1f}" height="10" rx="3"/>'
    yield f'<circle class="dot" cx="{_LEFT + p95 * scale:.1f}" cy="{y:.1f}" r="4"/>'
    told = f"{p50 / 1000:,.3f} · {p95 / 1000:,.3f} · {p99 / 1000:,.3f} s"
    yield _text(_LEFT + p99 * scale + 12, y + 4, told, "note")


def waterfall(boot: Boot) -> str:
    """A cold start: a bar a span on one axis of time, those below 1 % left out."""
    spans = [_span(span) for span in boot.spans]
    end_s = max((span.end_s for span in spans), default=0.0) or 1.0
    shown = [row for row in rows(spans) if not row.is_mark and row.span.seconds >= 0.01 * end_s]
    parts = []
    for number, row in enumerate(shown):
        y, scale = _TOP + _ROW * number, (WIDTH - 330) / end_s
        start, width = 240 + row.span.start_s * scale, max(1.5, row.span.seconds * scale)
        parts += [
            _text(10 + 12 * row.depth, y + 12, escape(row.span.name[:36])),
            f'<rect class="boot" x="{start:.1f}" y="{y + 3}" width="{width:.1f}" height="11" rx="2"/>',
            _text(WIDTH - _RIGHT, y + 12, describe_seconds(row.span.seconds), "note", "end"),
        ]
    return _picture(f"cold start of {boot.worker}", _TOP + _ROW * len(shown) + 6, parts)


def _span(told: Mapping[str, object]) -> Span:
    start_s, end_s = (float(str(told[name])) for name in ("start_s", "end_s"))
    return Span(str(told["name"]), start_s, end_s, {}, str(told.get("thread", "")))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """Text that is escaped already."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _picture(name: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}">'
    return "\n".join([head, *parts, "</svg>"])
