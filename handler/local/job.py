"""A job of the local endpoint: what was asked, how far it is, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, Final

from handler.local_queue import Status

FINAL: Final = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT})

RETRIABLE: Final = frozenset({Status.FAILED, Status.TIMED_OUT})

NOTHING: Final = object()
"""The output of a job that has none, which None is not."""


@dataclass(frozen=True, slots=True)
class Policy:
    """RunPod's policy of a job, with RunPod's defaults.

    Attributes:
        execution_s: how long it may run at one worker; None for the endpoint's own limit.
        ttl_s: how long after its submission it is forgotten, whatever its state, unless it has ended.
        low_priority: it comes after all others, and no worker is started for it.
    """

    execution_s: float | None = None
    ttl_s: float = 86_400.0
    low_priority: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A job as a client asks for it.

    Attributes:
        kept_s: how long its result is kept.
        sync: somebody waits for the answer.
    """

    input: Any
    policy: Policy = field(default_factory=Policy)
    webhook: str | None = None
    kept_s: float = 1800.0
    sync: bool = False


class Bell:
    """Wakes all who wait for it, each time it rings."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake them."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next time."""
        await self._event.wait()


@dataclass(slots=True, eq=False)
class Job:
    """A job. Only its queue changes it. Times are the queue's clock, in seconds.

    Attributes:
        number: its place in the order of submission.
        created: when it was submitted, or asked for again.
        started: when its last attempt was handed to a worker.
        ended: when it reached its final state.
        worker_id: who has it, or had it last.
        former_workers: who had it before and has lost it.
        attempts: how often it was handed to a worker.
        blame: its share in the losses of workers that had it.
        chunks: what the worker has streamed in this attempt; a list of its own for each.
        output: the final output, or the last progress while it runs; `NOTHING` without one.
        told: whether its webhook need not be called any more.
        collected: how many of `chunks` `/stream` has handed out.
        bell: rings at every change.
        done: set while it is in a final state.
    """

    id: str
    asked: Asked
    number: int
    created: float
    status: Status = Status.IN_QUEUE
    started: float | None = None
    ended: float | None = None
    worker_id: str | None = None
    former_workers: set[str] = field(default_factory=set)
    attempts: int = 0
    blame: Fraction = Fraction(0)
    chunks: list[Any] = field(default_factory=list)
    output: Any = NOTHING
    error: str | None = None
    told: bool = False
    collected: int = 0
    bell: Bell = field(default_factory=Bell)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    def begin(self, worker_id: str, now: float) -> None:
        """It is handed to a worker."""
        assert self.status is Status.IN_QUEUE
        self.status = Status.IN_PROGRESS
        self.worker_id, self.started = worker_id, now
        self.attempts += 1
        self.bell.ring()

    def wait_again(self) -> None:
        """It goes back to the queue, without what its last attempt has sent."""
        if self.worker_id is not None:
            self.former_workers.add(self.worker_id)
        self.status = Status.IN_QUEUE
        self.started = self.ended = self.worker_id = self.error = None
        self.chunks, self.output, self.collected, self.told = [], NOTHING, 0, False
        self.done.clear()
        self.bell.ring()

    def ask_again(self, number: int, now: float) -> None:
        """A client wants it anew, as if it had just been submitted."""
        self.wait_again()
        self.number, self.created, self.attempts, self.blame = number, now, 0, Fraction(0)

    def end(self, status: Status, now: float, output: object = NOTHING, error: str | None = None) -> None:
        """Reach a final state, once."""
        assert not self.is_final
        assert status in FINAL
        self.status, self.ended = status, now
        self.output, self.error = output, error
        if self.output == self.chunks:  # A stream's final output repeats its chunks; one copy will do.
            self.output = self.chunks
        if status not in RETRIABLE:  # Nobody will want its input again, which may be long.
            self.asked = replace(self.asked, input=None)
        self.done.set()
        self.bell.ring()

    def for_worker(self) -> dict[str, Any]:
        """As a worker takes it."""
        webhook = {} if self.asked.webhook is None else {"webhook": self.asked.webhook}
        return {"id": self.id, "input": self.asked.input, **webhook}

    def view(self) -> dict[str, Any]:
        """As `/status` shows it; times in whole milliseconds."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown["delayTime"] = _milliseconds(self.started - self.created)
        if self.started is not None and self.ended is not None:
            shown["executionTime"] = _milliseconds(self.ended - self.started)
        if self.worker_id is not None:
            shown["workerId"] = self.worker_id
        if self.output is not NOTHING:
            shown["output"] = self.output
        return shown | ({} if self.error is None else {"error": self.error})

    def collect(self) -> dict[str, Any]:
        """As `/stream` shows it: what has come since the last time.

        A new attempt begins from the start, whatever was collected of the last one; its number, which RunPod does not
        show, says so.
        """
        fresh = self.chunks[self.collected :]
        self.collected += len(fresh)
        again = {"attempt": self.attempts} if self.attempts > 1 else {}
        return {"id": self.id, "status": self.status, "stream": [{"output": output} for output in fresh], **again}

    def submission(self) -> dict[str, Any]:
        """What must be kept of its beginning."""
        asked = {item.name: getattr(self.asked, item.name) for item in fields(self.asked)}  # Copies nothing.
        asked["policy"] = asdict(self.asked.policy)
        return {"kind": "submission", "job": self.id, "created": self.created, "asked": asked}

    def ending(self) -> dict[str, Any]:
        """What must be kept of its end."""
        assert self.is_final
        kept = {name: getattr(self, name) for name in ("status", "started", "ended", "worker_id", "attempts", "error")}
        chunks = {} if self.chunks is self.output else {"chunks": self.chunks}
        output = {} if self.output is NOTHING else {"output": self.output}
        return {"kind": "ending", "job": self.id, **kept, **chunks, **output}

    @classmethod
    def from_submission(cls, kept: Mapping[str, Any], number: int) -> Job:
        """The job as it was when it was submitted."""
        asked = Asked(**kept["asked"] | {"policy": Policy(**kept["asked"]["policy"])})
        return cls(kept["job"], asked, number, kept["created"])

    def restore_ending(self, kept: Mapping[str, Any]) -> None:
        """End as is written."""
        self.started, self.worker_id, self.attempts = kept["started"], kept["worker_id"], kept["attempts"]
        output = kept.get("output", NOTHING)
        self.chunks = kept.get("chunks", output)
        self.end(Status(kept["status"]), kept["ended"], output, kept["error"])


def _milliseconds(seconds: float) -> int:
    return max(0, round(1000 * seconds))
