"""What the queue and the workers of a local endpoint know of each other.

`JobQueue` (queue.py) is a `Queue`, `Workers` (workers.py) is a `Crew`; each side sees only this. All of it belongs to
one event loop. What a worker finds in its environment is made by `addresses.worker_environment`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

ENDPOINT_ID: Final = "local"
"""The endpoint's name in every path."""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many jobs there are.

    Attributes:
        in_queue: waiting, those of low priority among them.
        low_priority: of `in_queue`, those that do not call for another worker.
        in_progress: handed to a worker that has not answered.
        completed: since the endpoint began.
        failed: since the endpoint began; those that ran out of time among them.
        retried: how often a job went back to the queue because its worker was lost, or a client asked for it.
    """

    in_queue: int = 0
    low_priority: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """How many workers are in each state; `/health` shows idle and running ones together as `ready`."""

    initializing: int = 0
    idle: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0


class Queue(Protocol):
    """The queue as workers and their scaler see it.

    Attributes:
        changed: set at every change of the counts, and when a worker takes or ends a job. Whoever waits for it (the
            scaler alone) clears it before looking at the counts.
    """

    changed: asyncio.Event

    def counts(self) -> QueueCounts:
        """How many jobs there are."""

    def oldest_wait_s(self) -> float:
        """Seconds since the submission of the job that has waited longest, low priority aside; 0.0 if none waits."""

    def held_by(self, worker_id: str) -> list[str]:
        """Ids of the jobs that the worker is working on, oldest first."""

    def retire(self, worker_id: str) -> None:
        """Give the worker no more jobs, and end its open polls. To be called before it is told to stop, or frozen."""

    def employ(self, worker_id: str) -> None:
        """A retired worker is thawed: it may have jobs again. New workers need no such word."""

    def worker_lost(self, worker_id: str) -> None:
        """The worker has ended, well or not, or is taken for dead: its jobs go back to the front of the queue.

        It may be called for any worker, as often as one likes. The worker is retired; ids are not used again.
        """


class Crew(Protocol):
    """The workers as the queue's routes see them. Unknown ids are no error, except that they are not authorised."""

    def authorises(self, worker_id: str, key: str) -> bool:
        """Whether this is a worker of ours that may still work, and the key is its own."""

    def asks_for_jobs(self, worker_id: str) -> None:
        """The worker takes jobs, or waits for some: its boot is over."""

    def pinged(self, worker_id: str, job_ids: Sequence[str], complaint: str | None) -> None:
        """A sign of life.

        Args:
            job_ids: what it says it is working on.
            complaint: why it holds itself unfit for work; None while it does not.
        """

    def wants_replacement(self, worker_id: str) -> None:
        """The worker has ended a job with `stopPod`: it is to be replaced by a fresh one."""

    def counts(self) -> WorkerCounts:
        """How many workers are in each state."""
