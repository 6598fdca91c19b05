"""What a fuzzing run has come to: requests by operation and by status, and the slowest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Tally:
    """Counts what it times."""

    operations: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    began: float = field(default_factory=time.monotonic)

    def time(self, operation: str, ask: Callable[[], T]) -> T:
        """What `ask` gives; it is one case of the operation."""
        self.operations[operation] += 1
        begun = time.monotonic()
        given = ask()
        self.slowest = max(self.slowest, (time.monotonic() - begun, operation))
        return given

    def see(self, status: object) -> None:
        """How a case was answered."""
        self.statuses[str(status)] += 1

    @property
    def cases(self) -> int:
        return self.operations.total()

    def as_dict(self) -> dict[str, Any]:
        return {
            "cases": self.cases, "seconds": round(time.monotonic() - self.began, 1),
            "slowest_s": round(self.slowest[0], 3), "slowest": self.slowest[1],
            "statuses": dict(sorted(self.statuses.items())), "operations": dict(sorted(self.operations.items())),
        }
