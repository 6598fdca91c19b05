"""`fixed:SECONDS`: a ping every so often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmup.plan import PLATFORM_IDLE_S, Plan

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History


_HORIZON_S = 28 * 86400.0
"""A plan is for four weeks, so that a replay of years lays out so many pings at once."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A ping at each multiple of `every` seconds; a worker stays `idle` seconds after its last work or ping.

    With the platform's own idle timeout a ping finds no worker, starts one, and that is gone again before the next
    ping: it pays where starts are restores. Held warm all the time is `fixed:300:300`.
    """

    every: float
    idle: float = PLATFORM_IDLE_S

    def __post_init__(self) -> None:
        """Refuse what RunPod would not take; raises InvalidPolicy."""
        Plan(self.idle, every=self.every)

    @property
    def name(self) -> str:
        return f"fixed:{self.every:g}" + ("" if self.idle == PLATFORM_IDLE_S else f":{self.idle:g}")

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        return Plan(self.idle, every=self.every, until=now + _HORIZON_S)
