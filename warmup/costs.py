"""What a worker's second costs, what a user's second of waiting is worth, and how long starts take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from warmup.errors import InvalidSetting

if TYPE_CHECKING:
    from warmup.history import Floats

LONGEST_S = 366 * 86400.0
"""What takes longer than a year is a mistake: milliseconds, or a moment."""

MOST = 1e9
"""The greatest price and wait value; sums of what is greater would leave the range of floats."""

IDLE_STEPS_S = (60.0, 300.0, 1200.0, 3600.0, 14400.0, 86400.0)
"""Seconds without work by which the chance of a restore is counted."""

PING_S = 0.1
"""Seconds of work that a ping is: it is answered without generating."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long something takes: one value, or values of which each is as likely.

    Attributes:
        values: ascending; from 0 to a year.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no time; raises InvalidSetting."""
        if not self.values or not all(0 <= value <= LONGEST_S for value in self.values):
            raise InvalidSetting("a time in seconds must be a number that is not negative, and at most a year")
        if any(left > right for left, right in pairwise(self.values)):
            object.__setattr__(self, "values", tuple(sorted(self.values)))

    @classmethod
    def constant(cls, value: float) -> Seconds:
        return cls((float(value),))

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def at(self, draws: Floats) -> Floats:
        """A value for each draw, which is from 0 to 1 (without)."""
        import numpy as np

        values = np.asarray(self.values)
        return values[(draws * values.size).astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Restores:
    """FlashBoot: how likely a start is a restore, by how long the endpoint was without work. Facts: how the chance
    falls with time is not documented; it is learnt from the ledger or set.

    Attributes:
        seconds: how long a restore takes.
        up_to: idle seconds, ascending, each the end of a step.
        chances: for each step; beyond the last there is none.
    """

    seconds: Seconds
    up_to: tuple[float, ...]
    chances: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse chances that are none; raises InvalidSetting."""
        if len(self.up_to) != len(self.chances) or not all(0 <= chance <= 1 for chance in self.chances):
            raise InvalidSetting("the chance of a restore is from 0 to 1, one for each stretch of idle time")
        if list(self.up_to) != sorted(self.up_to):
            raise InvalidSetting("the stretches of idle time for the chance of a restore must be ascending")

    @classmethod
    def counted(cls, seconds: Seconds, starts: Iterable[tuple[float, bool]]) -> Restores:
        """By starts that were seen: the seconds without work before each, and whether it was a restore."""
        seen: list[list[bool]] = [[] for _ in (*IDLE_STEPS_S, "beyond")]
        for idle_s, restored in starts:
            seen[bisect_left(IDLE_STEPS_S, idle_s)].append(restored)
        chances = tuple(sum(kinds) / len(kinds) if kinds else 0.0 for kinds in seen[:-1])
        return cls(seconds, IDLE_STEPS_S, chances)

    def chance(self, idle_s: Floats) -> Floats:
        """Of a start after so many seconds without work."""
        import numpy as np

        return np.asarray((*self.chances, 0.0))[np.asarray(self.up_to).searchsorted(idle_s)]


@dataclass(frozen=True, slots=True)
class Starts:
    """How long starts take, billed and waited for alike. A warm worker takes none.

    Attributes:
        cold: a boot.
        restores: None where there are none.
    """

    cold: Seconds
    restores: Restores | None = None

    @property
    def is_constant(self) -> bool:
        return self.restores is None and len(self.cold.values) == 1

    def draw(self, draws: Floats, idle_s: Floats) -> Floats:
        """How long each start takes.

        Args:
            draws: from 0 to 1 (without), shape [starts, 2]: for its kind and for its length.
            idle_s: seconds without work before each; infinity where there was none before.
        """
        import numpy as np

        cold = self.cold.at(draws[:, 1])
        if self.restores is None:
            return cold
        restored = draws[:, 0] < self.restores.chance(idle_s)
        return np.where(restored, self.restores.seconds.at(draws[:, 1]), cold)

    def expected(self, idle_s: Floats) -> Floats:
        """Mean seconds of a start after so many seconds without work."""
        import numpy as np

        if self.restores is None:
            return np.full(np.shape(idle_s), self.cold.mean)
        chance = self.restores.chance(idle_s)
        return chance * self.restores.seconds.mean + (1 - chance) * self.cold.mean


@dataclass(frozen=True, slots=True)
class Costs:
    """What is weighed: score = cost + price x wait_value x waited_s, and cost = price x billed_s.

    Attributes:
        price: US dollars for a second of a worker.
        wait_value: how many seconds of the worker a second of a user's waiting is worth.
        starts: how long starts take.
        ping_s: seconds of work that a ping is.
        active_price: US dollars for a second in which min workers hold the worker; None for the same price. RunPod's
            pages no longer list another one.
    """

    price: float
    wait_value: float
    starts: Starts = field(default_factory=lambda: Starts(Seconds.constant(20.0)))
    ping_s: float = PING_S
    active_price: float | None = None

    def __post_init__(self) -> None:
        """Refuse amounts that are none; raises InvalidSetting."""
        amounts = {"price": self.price, "wait value": self.wait_value, "time of a ping": self.ping_s,
                   "active price": self.active_price or 0.0}
        for name, amount in amounts.items():
            if not 0 <= amount <= MOST:
                raise InvalidSetting(f"the {name} is {amount:g}: write a number from 0 to {MOST:,.0f}")

    def cost(self, billed_s: float, active_s: float = 0.0) -> float:
        """US dollars for billed seconds, `active_s` of them held by min workers."""
        rate = self.price if self.active_price is None else self.active_price
        return self.price * (billed_s - active_s) + rate * active_s

    def score(self, billed_s: float, waited_s: float, active_s: float = 0.0) -> float:
        """Money, and waiting as money."""
        return self.cost(billed_s, active_s) + self.price * self.wait_value * waited_s
