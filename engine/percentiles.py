"""Percentiles of latencies, under the names every report uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Percentiles(TypedDict):
    """Half, 95 and 99 in 100 of the values are at most these; None where there is no value."""

    p50: float | None
    p95: float | None
    p99: float | None


def percentiles(values: Sequence[float]) -> Percentiles:
    """The percentiles of `values`, in any order, interpolated as numpy does by default."""
    ordered = sorted(values)
    return Percentiles(p50=_at(ordered, 0.50), p95=_at(ordered, 0.95), p99=_at(ordered, 0.99))


def _at(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    below, part = divmod(share * (len(ordered) - 1), 1)
    upper = ordered[min(int(below) + 1, len(ordered) - 1)]
    return ordered[int(below)] * (1 - part) + upper * part
