"""How many workers there are to be: RunPod's two scalers, as a function from what is seen to what is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from engine.errors import InvalidConfig

ScalerKind = Literal["QUEUE_DELAY", "REQUEST_COUNT"]

DEFAULT_VALUES: Final[dict[ScalerKind, float]] = {"QUEUE_DELAY": 4.0, "REQUEST_COUNT": 4.0}
"""RunPod's documentation, "Endpoint configurations": seconds of waiting, or requests to a worker."""

Readiness = Literal["starting", "idle", "busy"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the user chose. The defaults are RunPod's (its documentation, "Endpoint configurations").

    Attributes:
        kind: QUEUE_DELAY adds a worker when a request waits too long, REQUEST_COUNT by the number of requests.
        value: the seconds that a request may wait, or the requests that make a worker.
        idle_timeout_s: how long a worker without work stays.
    """

    kind: ScalerKind = "QUEUE_DELAY"
    value: float = 4.0
    workers_min: int = 0
    workers_max: int = 3
    idle_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no scaler could follow; raises InvalidConfig."""
        if not 0 <= self.workers_min <= self.workers_max:
            raise InvalidConfig(
                f"at least {self.workers_min} and at most {self.workers_max} workers: "
                "the first may not be below 0, nor above the second"
            )
        least = 0.5 if self.kind == "QUEUE_DELAY" else 1
        if not self.value >= least:
            raise InvalidConfig(f"{self.kind} needs at least {least:g}, not {self.value:g}")
        if not 1 <= self.idle_timeout_s <= 3600:
            raise InvalidConfig(f"an idle timeout of {self.idle_timeout_s:g} s: write 1 to 3600")


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do.

    Attributes:
        in_queue: requests that wait and may call for a worker; those of low priority may not.
        in_progress: requests that workers have.
        waiting_since: when the oldest of `in_queue` came, in monotonic seconds; None where none waits.
    """

    in_queue: int = 0
    in_progress: int = 0
    waiting_since: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker that is up or coming up; `since` is when it became what it is, in monotonic seconds."""

    id: str
    readiness: Readiness
    since: float


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision follows from.

    Attributes:
        workers: those that are not being stopped.
        last_start: when a worker was last started because of the queue; None: never.
        not_before: no worker is started earlier, because the last ones died young.
        stopping: workers that are not gone yet; with them there are never more than `workers_max` processes.
    """

    scaling: Scaling
    demand: Demand
    workers: Sequence[Seen] = ()
    last_start: float | None = None
    not_before: float = 0.0
    stopping: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to decide again if nothing happens meanwhile (monotonic seconds; None: never)."""

    start: int = 0
    stop: tuple[str, ...] = ()
    look_again: float | None = None


def decide(situation: Situation, now: float) -> Plan:
    """What follows from what is seen.

    The first worker comes with the first request: from zero nothing is gained by letting it wait any longer.
    QUEUE_DELAY adds one more each time the oldest request has waited for `value` seconds since it came, since the last
    worker was added and since one became free, which is about to take it; never more than there are requests waiting.
    REQUEST_COUNT wants as many as it takes for `value` requests each. A worker without work goes after the idle
    timeout, the longest idle first, if those that are up are enough without it. Where there are too many, those that
    boot go first, then those without work.
    """
    count = len(situation.workers)
    wanted, due = _wanted(situation, now)
    target = min(max(wanted, situation.scaling.workers_min), situation.scaling.workers_max)
    if target > count:
        if now < situation.not_before:
            return Plan(look_again=situation.not_before)
        room = situation.scaling.workers_max - count - situation.stopping
        return Plan(start=max(0, min(target - count, room)), look_again=due)
    stop, expiry = _dispensable(situation, wanted, now)
    return Plan(stop=stop, look_again=_earliest(due, expiry))


def _wanted(situation: Situation, now: float) -> tuple[int, float | None]:
    """How many workers the requests call for, and when that may change by the passing of time alone."""
    demand, scaling = situation.demand, situation.scaling
    if scaling.kind == "REQUEST_COUNT":
        return math.ceil((demand.in_queue + demand.in_progress) / scaling.value), None
    count = len(situation.workers)
    if demand.waiting_since is None or not demand.in_queue:
        return 0, None
    if count == 0:
        return 1, now + scaling.value
    coming = sum(worker.readiness == "starting" for worker in situation.workers)
    if coming >= demand.in_queue or count >= scaling.workers_max:
        return count, None
    free_since = max((worker.since for worker in situation.workers if worker.readiness == "idle"), default=-math.inf)
    due = max(demand.waiting_since, situation.last_start or -math.inf, free_since) + scaling.value
    return (count + 1, now + scaling.value) if now >= due else (count, due)


def _dispensable(situation: Situation, wanted: int, now: float) -> tuple[tuple[str, ...], float | None]:
    """Who may go now, and when the next one may. One that boots stands in for nobody before it is up."""
    scaling = situation.scaling
    starting, idle, busy = (_of(situation.workers, kind) for kind in ("starting", "idle", "busy"))
    surplus = max(0, len(situation.workers) - scaling.workers_max)
    spare = max(0, len(idle) + len(busy) - max(wanted, scaling.workers_min))
    expired = [worker for worker in idle[:spare] if now - worker.since >= scaling.idle_timeout_s]
    gone = [*starting[::-1], *idle, *busy[::-1]][:surplus]
    stop = tuple(dict.fromkeys(worker.id for worker in [*gone, *expired]))
    left = [worker for worker in idle[:spare] if worker.id not in stop]
    return stop, left[0].since + scaling.idle_timeout_s if left else None


def _of(workers: Sequence[Seen], readiness: str) -> list[Seen]:
    """Those in this state, the longest first."""
    return sorted((worker for worker in workers if worker.readiness == readiness), key=lambda worker: worker.since)


def _earliest(*moments: float | None) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
