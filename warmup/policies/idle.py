"""`idle:SECONDS`: the platform's idle timeout, set to this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmup.plan import Plan

if TYPE_CHECKING:
    from warmup.costs import Costs
    from warmup.history import History


@dataclass(frozen=True, slots=True)
class Idle:
    """A worker stays `seconds` after its last work."""

    seconds: float

    def __post_init__(self) -> None:
        """Refuse what RunPod would not take; raises InvalidPolicy."""
        Plan(self.seconds)

    @property
    def name(self) -> str:
        return f"idle:{self.seconds:g}"

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        return Plan(self.seconds)
