"""RunPod's queue on this machine: jobs run in this process, their results are kept for a while."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from engine.backlog import Backlog
from engine.errors import QueueFull
from handler.caller import Caller
from handler.frontend import Frontend
from handler.jobs import Jobs
from handler.openai.errors import not_found

KEPT_S: Final = 1800.0
"""How long a result is kept: RunPod's figure for `/run`."""
KEPT_JOBS: Final = 10_000
"""Of more results than this the oldest are forgotten early."""


BODIES_WAITING: Final = 10
"""Inputs may wait in as many bytes as this many of the largest bodies: their tokens are not known before they run."""


class Status(StrEnum):
    """RunPod's states of a job."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


@dataclass(slots=True, eq=False)
class LocalJob:
    """A job and what became of it. Times are monotonic seconds.

    Attributes:
        size: bytes of the input.
        streamed: outputs that `/stream` has handed out.
    """

    id: str
    size: int = 0
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    status: Status = Status.IN_QUEUE
    outputs: list[Any] = field(default_factory=list)
    error: str | None = None
    streamed: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, status: Status) -> None:
        """Reach a final state; the first one stays."""
        if self.ended is None:
            self.status = status
            self.ended = time.monotonic()
            self.done.set()

    def view(self) -> dict[str, Any]:
        """As `/status` shows it; times in milliseconds."""
        shown: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            shown["delayTime"] = round(1000 * (self.started - self.created))
        if self.started is not None and self.ended is not None:
            shown["executionTime"] = round(1000 * (self.ended - self.started))
        if self.status is Status.COMPLETED:
            shown["output"] = self.outputs
        return shown | ({} if self.error is None else {"error": self.error})

    def take_stream(self) -> dict[str, Any]:
        """As `/stream` shows it: what has come since the last time."""
        fresh = self.outputs[self.streamed :]
        self.streamed += len(fresh)
        return {"id": self.id, "status": self.status, "stream": [{"output": output} for output in fresh]}


class LocalQueue:
    """Runs at most `max_concurrency` jobs at once, the others wait in order."""

    def __init__(self, frontend: Frontend) -> None:
        self._runner = Jobs(frontend)
        self._most_waiting = frontend.settings.max_waiting
        self._most_bytes = BODIES_WAITING * frontend.settings.max_body
        self._backlog = Backlog()
        self._slots = asyncio.Semaphore(frontend.settings.max_concurrency)
        self._jobs: dict[str, LocalJob] = {}
        self._waiting: dict[str, LocalJob] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check_room(self, size: int = 0) -> None:
        """Raise `QueueFull` when a job with an input of so many bytes would be refused."""
        waiting = len(self._waiting)
        wait_s = self._backlog.seconds(waiting)
        if waiting >= self._most_waiting:
            raise QueueFull(f"{waiting} jobs wait already", wait_s)
        if waiting and sum(job.size for job in self._waiting.values()) + size > self._most_bytes:
            raise QueueFull(f"the inputs of the jobs that wait already come near {self._most_bytes} bytes", wait_s)

    def submit(self, given: object, timeout: float | None, caller: Caller, size: int) -> LocalJob:
        """Queue a job with this input.

        Args:
            timeout: seconds it may run.
            size: bytes of the input.

        Raises:
            QueueFull: too many wait already, or too large ones.
        """
        self._forget()
        self.check_room(size)
        job = LocalJob(str(uuid.uuid4()), size)
        self._jobs[job.id] = self._waiting[job.id] = job
        task = asyncio.create_task(self._run(job, given, timeout, replace(caller, job=job.id)))
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._leave(job))
        return job

    def get(self, job_id: str) -> LocalJob:
        """The job with this id; raises `ApiError` 404 once it is forgotten."""
        if job_id not in self._jobs:
            raise not_found(f"there is no job {job_id}")
        return self._jobs[job_id]

    def cancel(self, job_id: str) -> LocalJob:
        """End a job; one that has ended stays as it is."""
        job = self.get(job_id)
        if job_id in self._tasks:
            self._tasks[job_id].cancel()
        job.end(Status.CANCELLED)
        return job

    def count(self, *statuses: Status) -> int:
        """How many of the known jobs are in one of these states."""
        return sum(job.status in statuses for job in self._jobs.values())

    async def finish(self, grace: float) -> None:
        """Wait for the jobs under way, `grace` seconds at most, and cancel the rest."""
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, job: LocalJob, given: object, limit: float | None, caller: Caller) -> None:
        try:
            # The deadline is kept here alone, so that however it is met the job has timed out.
            async with asyncio.timeout(caller.remaining_s), self._slots:
                del self._waiting[job.id]
                job.status, job.started = Status.IN_PROGRESS, time.monotonic()
                async with asyncio.timeout(limit):
                    await self._collect(job, given, replace(caller, deadline=None))
            job.end(Status.COMPLETED if job.error is None else Status.FAILED)
        except TimeoutError:
            job.end(Status.TIMED_OUT)
        finally:
            job.end(Status.CANCELLED)

    def _leave(self, job: LocalJob) -> None:
        self._tasks.pop(job.id, None)
        self._waiting.pop(job.id, None)
        self._backlog.note(1, waiting=bool(self._waiting))

    async def _collect(self, job: LocalJob, given: object, caller: Caller) -> None:
        async with aclosing(self._runner.run(given, caller)) as outputs:
            async for output in outputs:
                if isinstance(output, dict) and isinstance(output.get("error"), str):
                    job.error = output["error"]
                    return
                job.outputs.append(output)

    def _forget(self) -> None:
        """Drop results that are too old, or too many; jobs come in order, so the oldest are first."""
        now = time.monotonic()
        ended = [job for job in self._jobs.values() if job.ended is not None]
        for position, job in enumerate(ended):
            assert job.ended is not None
            if now - job.ended > KEPT_S or position < len(ended) - KEPT_JOBS:
                del self._jobs[job.id]

