"""What is to be done while nobody calls. The simulator makes billed seconds of it, the warmer actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from warmup.errors import InvalidPolicy

PLATFORM_IDLE_S = 5.0
"""RunPod's idle timeout unless changed (its documentation, "Endpoint configurations")."""

LONGEST_IDLE_S = 3600.0
"""The longest idle timeout that RunPod takes, and `SHORTEST_IDLE_S` the shortest."""

SHORTEST_IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a worker is kept, from when the plan is made until it is made anew. All times in seconds.

    A worker that is up when the plan is made is kept by it from then on. `every` and `windows` are for the plan's
    own time: what of them lies after `until` is not done.

    Attributes:
        idle_timeout: how long a worker stays after the end of its last work; RunPod's setting.
        prewarm: stretches of idle age, from the end of the last work: a worker is started at the first figure, if
            none is up, and stopped at the second. Ascending, after `idle_timeout`, and only in a plan without windows.
        every: a ping at each multiple of so many seconds since 1970, where no job runs; None for no pings.
        windows: stretches of time, seconds since 1970, in which at least one worker is up (min workers 1).
            Ascending, disjoint.
        always: at least one worker is up for the whole of the plan.
        until: when it is made anew at the latest, in seconds since 1970.
    """

    idle_timeout: float = PLATFORM_IDLE_S
    prewarm: tuple[tuple[float, float], ...] = ()
    every: float | None = None
    windows: tuple[tuple[float, float], ...] = ()
    always: bool = False
    until: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what nobody could carry out; raises InvalidPolicy."""
        if not SHORTEST_IDLE_S <= self.idle_timeout <= LONGEST_IDLE_S:
            raise InvalidPolicy(f"an idle timeout of {self.idle_timeout:g} s: RunPod takes 1 to 3600")
        if self.every is not None and not self.every >= 1:
            raise InvalidPolicy(f"a ping every {self.every:g} s: write at least 1")
        if not _ascending(self.prewarm, self.idle_timeout) or not _ascending(self.windows, -math.inf):
            raise InvalidPolicy("a plan's stretches must be ascending and apart, the pre-warmed after the idle timeout")
        if self.prewarm and (self.windows or self.always or self.every):
            raise InvalidPolicy("a plan that pre-warms by idle age has no windows and no pings")

    @property
    def stays(self) -> tuple[float, tuple[tuple[float, float], ...]]:
        """How long a worker stays after its last work, and the stretches in which it is pre-warmed later.

        A stretch that begins when the idle timeout ends prolongs it: the warmer holds the worker with min workers.
        """
        stays, later = self.idle_timeout, self.prewarm
        while later and later[0][0] <= stays:
            stays, later = later[0][1], later[1:]
        return stays, later

    @property
    def held(self) -> tuple[tuple[float, float], ...]:
        """When at least one worker is up: the windows, or all time."""
        return ((-math.inf, math.inf),) if self.always else self.windows


def kept(seconds: float, until: float) -> Plan:
    """A worker stays for so long. Beyond the longest idle timeout min workers hold it, at the usual timeout."""
    if seconds <= LONGEST_IDLE_S:
        return Plan(max(SHORTEST_IDLE_S, seconds), until=until)
    return Plan(prewarm=((PLATFORM_IDLE_S, seconds),), until=until)


def _ascending(stretches: tuple[tuple[float, float], ...], least: float) -> bool:
    edges = [least, *(edge for stretch in stretches for edge in stretch)]
    return all(left <= right for left, right in pairwise(edges)) and all(
        start < end for start, end in stretches
    )
