"""A promise and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise: what it is, what was measured, and whether it holds."""

    what: str
    measured: float
    bar: float
    holds: bool


def at_most(what: str, measured: float, bar: float) -> Bar:
    """A promise that something is no more than so much."""
    return Bar(what, measured, bar, measured <= bar)


def at_least(what: str, measured: float, bar: float) -> Bar:
    """A promise that something is no less than so much."""
    return Bar(what, measured, bar, measured >= bar)
