"""The lines of a boot's picture: which spans are shown, in which order, and what is said beside each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from engine.timeline import Span

SHORTEST_S = 0.0005
"""Spans below this are told in the JSON alone, but for marks and those that moved bytes."""

_RESIDENT = 0.99
"""From this share on nothing was read, and a rate would be of nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture: a span, and within how many others of its thread it lies."""

    span: Span
    depth: int

    @property
    def is_mark(self) -> bool:
        return self.span.seconds == 0

    @property
    def kind(self) -> str:
        """The first word of its name, which colours go by."""
        return self.span.name.split()[0]

    @property
    def time(self) -> str:
        """Of a mark when it was, of a span how long it took."""
        return describe_seconds(self.span.end_s if self.is_mark else self.span.seconds)

    @property
    def note(self) -> str:
        """What is known beside the times."""
        detail, parts = self.span.detail, []
        if "bytes" in detail:
            parts.append(describe_bytes(float(detail["bytes"])))
        rate = detail.get("gb_per_s")
        was_there = float(detail.get("resident_fraction", 0)) > _RESIDENT
        if rate is None and "bytes" in detail and self.span.seconds > SHORTEST_S and not was_there:
            rate = float(detail["bytes"]) / self.span.seconds / 1e9
        if rate is not None:
            parts.append(f"{float(rate):.2f} GB/s")
        if "resident_fraction" in detail:
            parts.append(f"{float(detail['resident_fraction']):.0%} resident")
        return ", ".join(parts)


def rows(spans: Iterable[Span]) -> list[Row]:
    """Lines in the order of their beginning, each span's parts below it."""
    shown = [span for span in spans if span.seconds == 0 or span.seconds >= SHORTEST_S or "bytes" in span.detail]
    ordered = sorted(shown, key=lambda span: (span.start_s, span.seconds > 0, -span.end_s))
    roots = [span for span in ordered if not any(_holds(other, span) for other in ordered)]
    return [row for root in roots for row in _family(root, ordered, 0)]


def _holds(outer: Span, inner: Span) -> bool:
    """Whether one is a part of the other. Marks are of the boot, not of what happens to run then."""
    same = outer.thread == inner.thread and outer.seconds > inner.seconds > 0
    return same and outer.start_s <= inner.start_s and inner.end_s <= outer.end_s


def _family(span: Span, spans: Sequence[Span], depth: int) -> Iterator[Row]:
    """The span and all within it."""
    yield Row(span, depth)
    inner = [other for other in spans if _holds(span, other)]
    for child in inner:
        if not any(_holds(other, child) for other in inner):
            yield from _family(child, spans, depth + 1)


def describe_seconds(seconds: float) -> str:
    """Three digits that tell something."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"


def describe_bytes(count: float) -> str:
    """In powers of ten, as storage is sold."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
