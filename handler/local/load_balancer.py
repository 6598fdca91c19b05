"""RunPod's load balancer: no queue of jobs, but requests that wait for a worker that serves them itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from engine.errors import PilotlightError
from handler.local.contracts import QueueCounts
from handler.local.job import Bell

WAIT_S: Final = 120.0
"""How long a request waits for a worker (RunPod's documentation, "Load balancing endpoints")."""

AFFINITY_WAIT_S: Final = 300.0
"""How long one waits that wants a certain worker (ibid., "Worker affinity")."""

Affinity = Literal["soft", "strict", "strict-resume"]


class NoWorker(PilotlightError):
    """No worker has come in time."""


class WorkerGone(PilotlightError):
    """The one worker that the request wants is not there."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Which worker a request wants: prefers, wants alone, or wants so much that it is to be thawed for it."""

    worker_id: str
    affinity: Affinity = "soft"

    @classmethod
    def read(cls, header: str) -> Wish | None:
        """The wish that a header line says; None where it says none."""
        kind, _, worker_id = header.strip().rpartition(" ")
        if not worker_id:
            return None
        return cls(worker_id, "strict-resume" if kind == "strict-resume" else "strict" if kind == "strict" else "soft")


class LoadBalancer:
    """Gives each request a healthy worker, the one with the fewest. It belongs to one event loop.

    To the scaler it is a queue: requests that wait, and those that workers have.

    Attributes:
        changed: see `contracts.Queue`.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._healthy: set[str] = set()
        self._known: set[str] = set()
        self._retired: set[str] = set()
        self._held: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._waiting: dict[str, float] = {}
        self._news = Bell()
        self._done = 0
        self._failed = 0

    def serves(self, worker_id: str, healthy: bool) -> None:
        """The worker is there, and may or may not be given requests."""
        self._known.add(worker_id)
        if healthy != (worker_id in self._healthy):
            (self._healthy.add if healthy else self._healthy.discard)(worker_id)
            self._news.ring()

    @asynccontextmanager
    async def worker(self, wish: Wish | None = None) -> AsyncIterator[str]:
        """The worker of one request, for as long as that takes.

        Raises:
            NoWorker: none has come in time.
            WorkerGone: the only one that would do is not there.
        """
        request = uuid.uuid4().hex
        worker_id = await self._find(request, wish)
        self._held[worker_id][request] = None
        self.changed.set()
        try:
            yield worker_id
        except BaseException:
            self._failed += 1
            raise
        else:
            self._done += 1
        finally:
            self._let_go(worker_id, request)
            self.changed.set()

    def counts(self) -> QueueCounts:
        """Requests that wait, that are under way, and that have ended."""
        under_way = sum(len(requests) for requests in self._held.values())
        return QueueCounts(
            in_queue=len(self._waiting), in_progress=under_way, completed=self._done, failed=self._failed
        )

    def oldest_wait_s(self) -> float:
        """Seconds that the first of those that wait has waited; 0.0 if none does."""
        return time.monotonic() - next(iter(self._waiting.values())) if self._waiting else 0.0

    def held_by(self, worker_id: str) -> list[str]:
        """The requests that the worker has."""
        return list(self._held.get(worker_id, ()))

    def retire(self, worker_id: str) -> None:
        """Give the worker no more requests."""
        self._retired.add(worker_id)

    def employ(self, worker_id: str) -> None:
        """It may have requests again, once it is seen to be healthy."""
        self._retired.discard(worker_id)
        self._healthy.discard(worker_id)

    def worker_lost(self, worker_id: str) -> None:
        """The worker is gone; whoever forwards to it finds out himself."""
        self._healthy.discard(worker_id)
        self._known.discard(worker_id)
        self._retired.discard(worker_id)
        self._held.pop(worker_id, None)
        self._news.ring()
        self.changed.set()

    def _let_go(self, worker_id: str, request: str) -> None:
        """A worker that was lost meanwhile has nothing any more."""
        held = self._held.get(worker_id, {})
        held.pop(request, None)
        if not held:
            self._held.pop(worker_id, None)

    async def _find(self, request: str, wish: Wish | None) -> str:
        if (found := self._choose(wish)) is not None:
            return found
        self._waiting[request] = time.monotonic()
        self.changed.set()
        try:
            async with asyncio.timeout(AFFINITY_WAIT_S if wish and wish.affinity != "soft" else WAIT_S):
                while (found := self._choose(wish)) is None:
                    await self._news.wait()
            return found
        except TimeoutError:
            raise NoWorker("timed out waiting for worker" if wish else "no workers available") from None
        finally:
            del self._waiting[request]

    def _choose(self, wish: Wish | None) -> str | None:
        """The best of the healthy ones; None where there is none.

        Raises:
            WorkerGone: the only one that would do is not there.
        """
        able = self._healthy - self._retired
        if wish is not None and wish.worker_id in able:
            return wish.worker_id
        if wish is not None and wish.affinity != "soft":
            is_down = wish.worker_id in self._retired and wish.affinity == "strict"
            if wish.worker_id not in self._known or is_down:
                raise WorkerGone("affinity_worker_gone")
            return None
        return min(able, key=lambda worker_id: len(self._held.get(worker_id, ())), default=None)
