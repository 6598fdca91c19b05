"""The queue of the local endpoint: the one owner of its jobs, from their submission to when their results go."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Final

from engine.errors import InvalidRequest, PilotlightError
from handler.local import history
from handler.local.contracts import QueueCounts
from handler.local.job import NOTHING, RETRIABLE, Asked, Job
from handler.local.polls import Polls
from handler.local.priority_map import PriorityMap
from handler.local.record import Entry, Record, Unrecorded
from handler.local.waiting_line import WaitingLine
from handler.local_queue import Status

MOST_ATTEMPTS: Final = 3
"""Of a job whose workers are lost, unless the endpoint is told otherwise. RunPod's own figure is not published."""
KEPT_JOBS: Final = 10_000
"""Of more results than this the oldest are forgotten early."""
EXECUTION_S: Final = 600.0
"""RunPod's `executionTimeout` of an endpoint that has not set another."""
TICK_S: Final = 0.1
"""How late the end of a time limit may be noticed."""

Clock = Callable[[], float]


class NoSuchJob(PilotlightError):
    """There is no job of this id, or it is not this worker's."""


def wall_clock() -> Clock:
    """Seconds since 1970, which do not jump when the system's clock is set."""
    offset = time.time() - time.monotonic()
    return lambda: time.monotonic() + offset


class JobQueue:
    """Hands out jobs in order, each to one worker at a time, and brings each to exactly one final state.

    Every method but the long polls does its work at once; `written` waits until that is on the disk, and nobody should
    be told of it before. All belongs to one event loop.

    Args:
        record: where submissions and ends are kept.

    Attributes:
        changed: see `contracts.Queue`.
        execution_s: how long a job may run whose policy does not say.
        most_attempts: how often a job is tried whose workers are lost; a loss counts against all jobs of the worker in
            equal shares.
        on_end: called with each job that ends and has a webhook.
    """

    def __init__(self, record: Record | None = None, clock: Clock | None = None) -> None:
        self.changed = asyncio.Event()
        self.execution_s = EXECUTION_S
        self.most_attempts = MOST_ATTEMPTS
        self.on_end: Callable[[Job], None] = lambda job: None
        self._record: Record = record or Unrecorded()
        self._clock = clock or wall_clock()
        self._jobs: dict[str, Job] = {}
        self._line = WaitingLine()
        self._held: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self._ended: dict[str, None] = {}
        self._deadlines: PriorityMap[str, float] = PriorityMap()
        self._retired: set[str] = set()
        self._takes, self._stop_polls = Polls(self._retired), Polls(self._retired)
        self._to_stop: defaultdict[str, list[str]] = defaultdict(list)
        self._ends: defaultdict[Status, int] = defaultdict(int)
        self._retried = 0
        self._number = 0

    def submit(self, asked: Asked) -> Job:
        """Queue a job."""
        prefix = "sync-" if asked.sync else ""
        job = Job(f"{prefix}{uuid.uuid4()}", asked, self._next_number(), self._clock())
        self._jobs[job.id] = job
        self._record.write(history.submitted(job))
        self._queue(job)
        return job

    def get(self, job_id: str) -> Job:
        """The job of this id.

        Raises:
            NoSuchJob: it never was, or is forgotten.
        """
        if not self.knows(job_id):
            raise NoSuchJob(f"there is no job {job_id}, or not any more")
        return self._jobs[job_id]

    def knows(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return job_id in self._jobs

    def jobs(self) -> list[Job]:
        """All that are not forgotten, as they were submitted."""
        return sorted(self._jobs.values(), key=lambda job: job.number)

    def cancel(self, job_id: str) -> Job:
        """End a job; one that has ended stays as it is."""
        job = self.get(job_id)
        if not job.is_final:
            self._end(job, Status.CANCELLED)
        return job

    def retry(self, job_id: str) -> Job:
        """Queue a job that failed or ran out of time anew, behind all others.

        Raises:
            InvalidRequest: it is in another state.
        """
        job = self.get(job_id)
        if job.status not in RETRIABLE:
            raise InvalidRequest(f"only a job that is FAILED or TIMED_OUT can be retried; {job_id} is {job.status}")
        self._ended.pop(job_id)
        job.ask_again(self._next_number(), self._clock())
        self._retried += 1
        self._record.write(history.retried(job))
        self._queue(job)
        return job

    def purge(self) -> int:
        """Cancel all jobs that wait, and say how many those were."""
        waiting = [job for job in self._jobs.values() if job.status is Status.IN_QUEUE]
        for job in waiting:
            self._end(job, Status.CANCELLED)
        return len(waiting)

    def keep(self, job_id: str, seconds: float) -> None:
        """Keep the result of a job that has ended for so long from now."""
        if self.get(job_id).is_final:
            self._deadlines.set(job_id, self._clock() + seconds)

    def tell(self, job: Job) -> None:
        """The job's webhook need not be called any more."""
        if job.id in self._jobs:
            job.told = True
            self._record.write(history.told(job))

    def entries(self) -> Iterator[Entry]:
        """All that must be written to have the same jobs again."""
        return history.entries_of(self.jobs())

    def replay(self, entries: Iterable[Entry]) -> None:
        """Have the jobs of a queue that is no more; those that were being worked on wait again."""
        for job in history.restore(entries):
            self._jobs[job.id], self._number = job, job.number
            if job.is_final:
                self._keep_for_a_while(job)
            else:
                self._queue(job)

    async def written(self) -> None:
        """Wait until all that has happened is on the disk.

        Raises:
            RecordFailed: it is not.
        """
        await self._record.written()

    async def take(self, worker_id: str, count: int, wait_s: float) -> list[Job]:
        """The next jobs, `count` at most, which are then the worker's; none if none comes in time."""
        jobs = await self._takes.until(worker_id, lambda: self.take_now(worker_id, count), wait_s)
        if not jobs and self._line:
            self._takes.wake()
        return jobs

    def take_now(self, worker_id: str, count: int) -> list[Job]:
        """`take` without waiting."""
        taken: list[Job] = []
        while worker_id not in self._retired and len(taken) < count and (job_id := self._line.pop()) is not None:
            taken.append(self._begin(self._jobs[job_id], worker_id))
        return taken

    def hand_back(self, worker_id: str, jobs: Iterable[Job]) -> None:
        """Jobs that were taken for a worker but did not reach it; that does not count as an attempt."""
        for job in jobs:
            if self._is_at(job, worker_id):
                job.attempts -= 1
                self._wait_again(job)

    def stream(self, job_id: str, worker_id: str, chunk: object) -> None:
        """The worker sends a part of the output; one that comes after the end is dropped.

        Raises:
            NoSuchJob: the job is not this worker's, or not any more.
        """
        if (job := self._running(job_id, worker_id)) is not None:
            job.chunks.append(chunk)
            job.bell.ring()

    def progress(self, job_id: str, worker_id: str, shown: object) -> None:
        """The worker says how far it is; as `finish`."""
        if not self._has_lost(job_id, worker_id) and (job := self._running(job_id, worker_id)) is not None:
            job.output = shown
            job.bell.ring()

    def finish(self, job_id: str, worker_id: str, output: object = NOTHING, error: str | None = None) -> None:
        """The worker has done its work, well or, with an error, not.

        What a worker says whose answer was lost, or that has lost the job itself, is ignored: a job ends once.

        Raises:
            NoSuchJob: the worker never had this job.
        """
        if not self._has_lost(job_id, worker_id) and (job := self._running(job_id, worker_id)) is not None:
            self._end(job, Status.COMPLETED if error is None else Status.FAILED, output, error)

    async def stops(self, worker_id: str, wait_s: float) -> list[str]:
        """Ids of jobs that the worker is to stop; none if none comes in time."""
        return await self._stop_polls.until(worker_id, lambda: self._to_stop.pop(worker_id, []), wait_s)

    def stop_again(self, worker_id: str, job_ids: list[str]) -> None:
        """Ids that did not reach the worker."""
        self._to_stop[worker_id] += job_ids
        self._stop_polls.wake(worker_id)

    def retire(self, worker_id: str) -> None:
        """Give the worker no more jobs, and end its open polls."""
        self._retired.add(worker_id)
        self._takes.wake(worker_id)
        self._stop_polls.wake(worker_id)

    def employ(self, worker_id: str) -> None:
        """A retired worker may have jobs again."""
        self._retired.discard(worker_id)

    def worker_lost(self, worker_id: str) -> None:
        """Take back the worker's jobs. One that has too large a share in such losses fails."""
        self.retire(worker_id)
        held = self.held_by(worker_id)
        for job_id in held:
            job = self._jobs[job_id]
            job.blame += Fraction(1, len(held))
            if job.blame < self.most_attempts:
                self._retried += 1
                self._wait_again(job)
            else:
                text = f"its worker was lost; this was its attempt number {job.attempts}"
                self._end(job, Status.FAILED, error=text)
        self._to_stop.pop(worker_id, None)

    def held_by(self, worker_id: str) -> list[str]:
        """Ids of the jobs that the worker is working on, oldest first."""
        return list(self._held.get(worker_id, ()))

    def counts(self) -> QueueCounts:
        """How many jobs there are."""
        return QueueCounts(
            in_queue=len(self._line),
            low_priority=self._line.low_priority,
            in_progress=sum(map(len, self._held.values())),
            completed=self._ends[Status.COMPLETED],
            failed=self._ends[Status.FAILED] + self._ends[Status.TIMED_OUT],
            retried=self._retried,
        )

    def oldest_wait_s(self) -> float:
        """Seconds since the submission of the first job that waits, low priority aside; 0.0 if none does."""
        first = self._line.first_usual()
        return 0.0 if first is None else max(0.0, self._clock() - self._jobs[first].created)

    async def keep_time(self) -> None:
        """End and forget jobs when it is time to, for ever."""
        while True:
            self.expire()
            await asyncio.sleep(TICK_S)

    def expire(self) -> None:
        """End and forget the jobs whose time is over."""
        now = self._clock()
        while (first := self._deadlines.least()) is not None and first[0] <= now:
            self._out_of_time(self._jobs[first[1]], now)

    def _out_of_time(self, job: Job, now: float) -> None:
        if job.is_final:
            self._forget(job)
        elif now < job.created + job.asked.policy.ttl_s:
            self._end(job, Status.TIMED_OUT, error="it ran longer than its policy's executionTimeout")
        else:
            self._end(job, Status.TIMED_OUT, error="it was older than its policy's ttl")
            self._forget(job)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _is_at(self, job: Job, worker_id: str) -> bool:
        return job.status is Status.IN_PROGRESS and job.worker_id == worker_id

    def _has_lost(self, job_id: str, worker_id: str) -> bool:
        job = self.get(job_id)
        return worker_id in job.former_workers and worker_id != job.worker_id

    def _running(self, job_id: str, worker_id: str) -> Job | None:
        """The job that the worker speaks of; None when it has ended."""
        job = self.get(job_id)
        if job.worker_id != worker_id:
            raise NoSuchJob(f"job {job_id} is not with worker {worker_id}")
        return None if job.is_final else job

    def _queue(self, job: Job) -> None:
        self._deadlines.set(job.id, job.created + job.asked.policy.ttl_s)
        self._line.add(job)
        self._takes.wake()
        self.changed.set()

    def _begin(self, job: Job, worker_id: str) -> Job:
        now, policy = self._clock(), job.asked.policy
        job.begin(worker_id, now)
        self._held[worker_id][job.id] = None
        self._deadlines.set(job.id, min(now + (policy.execution_s or self.execution_s), job.created + policy.ttl_s))
        self.changed.set()
        return job

    def _wait_again(self, job: Job) -> None:
        self._let_go(job)
        job.wait_again()
        self._queue(job)

    def _let_go(self, job: Job) -> None:
        """Take the job from its worker, or out of the line."""
        self._line.drop(job)
        if job.worker_id is not None:
            self._held[job.worker_id].pop(job.id, None)
            if not self._held[job.worker_id]:
                del self._held[job.worker_id]

    def _end(self, job: Job, status: Status, output: object = NOTHING, error: str | None = None) -> None:
        self._let_go(job)
        if job.status is Status.IN_PROGRESS and status in (Status.CANCELLED, Status.TIMED_OUT):
            assert job.worker_id is not None
            self.stop_again(job.worker_id, [job.id])
        job.end(status, self._clock(), output, error)
        self._record.write(history.ended(job))
        self._keep_for_a_while(job)
        self.changed.set()
        if job.asked.webhook is not None:
            self.on_end(job)

    def _keep_for_a_while(self, job: Job) -> None:
        assert job.ended is not None
        self._ends[job.status] += 1
        self._ended[job.id] = None
        self._deadlines.set(job.id, job.ended + job.asked.kept_s)
        if len(self._ended) > KEPT_JOBS:
            self._forget(self._jobs[next(iter(self._ended))])

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._ended.pop(job.id)
        self._deadlines.drop(job.id)
        self._record.write(history.forgotten(job))
        if self._record.wants_rewriting():
            self._record.rewrite(list(self.entries()))
