"""All workers of the endpoint: their starts, their ends, and what is known of each in between."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from hmac import compare_digest
from typing import Any, Final

from handler.epochs import Moment
from handler.local.back_off import BackOff
from handler.local.bill import Bill
from handler.local.cold_starts import ColdStarts
from handler.local.contracts import Queue, WorkerCounts
from handler.local.freezing import freeze, frozen, thaw
from handler.local.launch import Launch
from handler.local.runtime import CannotStart, Runtime, describe
from handler.local.scaler import Seen
from handler.local.worker import READINESS, Worker, WorkerState

MISSED_PINGS: Final = 3
"""Signs of life that a worker may leave out before it is taken for dead. RunPod's own figure is not published."""

BOOT_S: Final = 420.0
"""A worker that is not ready by then is unhealthy (RunPod's documentation, "Endpoint optimization": 7 minutes)."""

_PINGING: Final = (WorkerState.INITIALIZING, WorkerState.IDLE, WorkerState.RUNNING, WorkerState.STOPPING)
_LEAVING: Final = (WorkerState.STOPPING, WorkerState.UNHEALTHY)

_log = logging.getLogger("pilotlight.local")


class Workers:
    """Owns every worker. It belongs to one event loop.

    Attributes:
        flashboot: whether workers without work are frozen instead of stopped.
        back_off: how long to wait after workers that died while they booted.
        cold_starts: how the latest came up.
    """

    def __init__(self, queue: Queue, runtime: Runtime, bill: Bill, launch: Launch, flashboot: bool = False) -> None:
        self._queue = queue
        self._runtime = runtime
        self._bill = bill
        self._launch = launch
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.flashboot = flashboot
        self.back_off = BackOff()
        self.cold_starts = ColdStarts()

    def __iter__(self) -> Iterator[Worker]:
        """Each that there is, the oldest first; those whose start has failed, too, until the next is tried."""
        return iter(tuple(self._workers.values()))

    # What the queue's routes tell.

    def authorises(self, worker_id: str, key: str) -> bool:
        """Whether this is a worker of ours that has not ended, and the key is its own, or what RunPod's SDK shows."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.over.is_set():
            return False
        of_sdk = self._launch.sdk_key or worker.key
        return compare_digest(worker.key.encode(), key.encode()) or compare_digest(of_sdk.encode(), key.encode())

    def asks_for_jobs(self, worker_id: str) -> None:
        """The worker's boot is over."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker.state is WorkerState.INITIALIZING and worker.ready_s is None:
            self._came_up(worker)
            self._begin(self.cold_starts.note_boot(worker))

    def pinged(self, worker_id: str, job_ids: Sequence[str], complaint: str | None) -> None:
        """A sign of life, or of the contrary."""
        if (worker := self._workers.get(worker_id)) is None:
            return
        worker.last_ping = time.monotonic()
        if complaint is not None and worker.state is not WorkerState.UNHEALTHY:
            self._is_unfit(worker, complaint)

    def wants_replacement(self, worker_id: str) -> None:
        """The worker wants to be replaced by a fresh one."""
        if worker := self._workers.get(worker_id):
            self._retire(worker, "it asked to be replaced")

    def counts(self) -> WorkerCounts:
        """How many workers are in each of the states that RunPod shows."""
        states = Counter(worker.state for worker in self)
        return WorkerCounts(
            initializing=states[WorkerState.INITIALIZING], idle=states[WorkerState.IDLE],
            running=states[WorkerState.RUNNING], throttled=states[WorkerState.THROTTLED],
            unhealthy=states[WorkerState.UNHEALTHY],
        )

    # What the scaler sees and does.

    def seen(self) -> list[Seen]:
        """The workers that count, as they are now."""
        for worker in self:
            if worker.state in (WorkerState.IDLE, WorkerState.RUNNING):
                worker.enter(WorkerState.RUNNING if self._queue.held_by(worker.id) else WorkerState.IDLE)
        return [
            Seen(worker.id, READINESS[worker.state], worker.since) for worker in self if worker.state in READINESS
        ]

    @property
    def stopping(self) -> int:
        """Workers that count no more but are not gone."""
        return sum(not worker.over.is_set() and worker.state in _LEAVING for worker in self)

    def add(self) -> None:
        """Have one more: one that is frozen, or else a new one."""
        if sleeping := frozen(self):
            self._thaw(sleeping[0])
        else:
            self._bury()
            worker_id = f"worker-{secrets.token_hex(4)}"
            worker = self._workers[worker_id] = Worker(worker_id, self._launch.log_of(worker_id), self._launch.port())
            self._begin(self._live(worker))

    def resume(self, worker_id: str) -> None:
        """Thaw this one if it is frozen."""
        worker = self._workers.get(worker_id)
        if worker is not None and worker in frozen(self):
            self._thaw(worker)

    def find(self, worker_id: str) -> Worker | None:
        """The worker of this id, if there is one."""
        return self._workers.get(worker_id)

    def url_of(self, worker_id: str) -> str:
        """Where a load-balanced worker listens."""
        return self._workers[worker_id].url

    def remove(self, worker_id: str) -> None:
        """Have one less: it is frozen if it may be, else it is stopped once it has no job."""
        worker = self._workers[worker_id]
        if self.flashboot and worker.state is WorkerState.IDLE and not self._queue.held_by(worker.id):
            self._queue.retire(worker.id)
            worker.enter(WorkerState.FROZEN)
            self._begin(freeze(worker, self._bill))
        else:
            self._retire(worker, "scaled down")

    def look_after(self, most: int) -> None:
        """Do what is due by the passing of time; with those that are frozen there are `most` at most."""
        now = time.monotonic()
        self._bill.mark()
        for worker in self:
            if worker.over.is_set():
                continue
            if worker.state is WorkerState.INITIALIZING and now - worker.since > BOOT_S:
                self._is_unfit(worker, f"not ready after {BOOT_S:g} s")
            elif self._is_silent(worker, now):
                self._is_lost(worker)
            elif worker.state is WorkerState.STOPPING and not self._queue.held_by(worker.id):
                self._stop(worker)
        for worker in frozen(self)[max(0, most - len(self.seen())) if self.flashboot else 0 :]:
            self._stop(worker, "scaled down")

    async def close(self) -> None:
        """End them all, each within the grace."""
        for worker in self:
            self._stop(worker, "the endpoint ends")
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def kill(self) -> None:
        """End them all at once."""
        for worker in self:
            if worker.handle is not None:
                worker.why = worker.why or "killed with the endpoint"
                await worker.handle.kill()

    # A worker's life.

    async def _live(self, worker: Worker) -> None:
        began = Moment.now()
        try:
            environment = self._launch.environment(worker)
            worker.handle = await self._runtime.start(worker.id, environment, worker.log)
        except CannotStart as error:
            worker.enter(WorkerState.THROTTLED)
            self._failed_to_boot(worker, str(error))
        else:
            self._bill.start(worker.id, began)
            _log.info("worker %s starts (%s)", worker.id, worker.handle.name)
            worker.launched.set()
            self._has_ended(worker, await worker.handle.wait())
        worker.launched.set()
        worker.over.set()
        self._queue.worker_lost(worker.id)
        self._queue.changed.set()

    def _came_up(self, worker: Worker) -> None:
        worker.ready_s = time.monotonic() - worker.since
        worker.enter(WorkerState.IDLE)
        self.back_off.succeeded()
        self._queue.changed.set()

    def _has_ended(self, worker: Worker, status: int) -> None:
        self._bill.stop(worker.id, worker.why or describe(status))
        unready = worker.ready_s is None and (worker.why is None or worker.state is WorkerState.UNHEALTHY)
        last = f"its last line: {worker.last_words()}"
        if unready:
            worker.enter(WorkerState.UNHEALTHY)
            self._failed_to_boot(worker, f"{describe(status)} before it was ready; {last}")
            return
        del self._workers[worker.id]
        if worker.why is None:
            held = f"{len(self._queue.held_by(worker.id))} jobs were with it"
            _log.warning("worker %s %s; %s; %s (all it wrote: %s)", worker.id, describe(status), held, last, worker.log)
        else:
            _log.info("worker %s %s: %s", worker.id, describe(status), worker.why)

    def _failed_to_boot(self, worker: Worker, what: str) -> None:
        pause = self.back_off.failed(time.monotonic())
        _log.error("worker %s %s; the next try is in %.0f s (all it wrote: %s)", worker.id, what, pause, worker.log)

    def _bury(self) -> None:
        """Forget those whose start has failed: the next is tried."""
        for worker in self:
            if worker.over.is_set():
                del self._workers[worker.id]

    # Its end.

    def _is_unfit(self, worker: Worker, complaint: str) -> None:
        _log.warning("worker %s is unfit: %s", worker.id, complaint)
        worker.enter(WorkerState.UNHEALTHY)
        self._stop(worker, f"unfit: {complaint}")

    def _is_silent(self, worker: Worker, now: float) -> bool:
        awaited = worker.last_ping is not None and worker.state in _PINGING
        return awaited and now - max(worker.last_ping or 0.0, worker.since) > MISSED_PINGS * self._launch.ping_s

    def _is_lost(self, worker: Worker) -> None:
        seconds = MISSED_PINGS * self._launch.ping_s
        _log.warning("worker %s has not pinged for %d s and is taken for dead", worker.id, seconds)
        worker.why = f"no ping for {seconds} s"
        worker.enter(WorkerState.STOPPING)
        self._queue.worker_lost(worker.id)
        if worker.handle is not None:
            self._begin(worker.handle.kill())

    def _retire(self, worker: Worker, why: str) -> None:
        """Give it no more jobs; once it has none it is stopped, now or when `look_after` sees it."""
        worker.why = worker.why or why
        worker.enter(WorkerState.STOPPING)
        self._queue.retire(worker.id)
        if not self._queue.held_by(worker.id):
            self._stop(worker)

    def _stop(self, worker: Worker, why: str | None = None) -> None:
        """Have it finish what it has within the grace."""
        if worker.is_leaving or worker.over.is_set():
            return
        worker.is_leaving = True
        worker.why = worker.why or why
        self._begin(self._drain(worker))

    async def _drain(self, worker: Worker) -> None:
        self._queue.retire(worker.id)
        await worker.launched.wait()
        if worker.handle is None:
            return
        if worker.state is WorkerState.FROZEN:
            await thaw(worker, self._bill)
        if worker.state is not WorkerState.UNHEALTHY:
            worker.enter(WorkerState.STOPPING)
        await worker.handle.terminate()
        try:
            async with asyncio.timeout(self._launch.grace_s):
                await worker.over.wait()
        except TimeoutError:
            _log.warning("worker %s has not ended within %g s and is killed", worker.id, self._launch.grace_s)
            await worker.handle.kill()

    def _thaw(self, worker: Worker) -> None:
        worker.enter(WorkerState.INITIALIZING)
        self._begin(self._go_on(worker))

    async def _go_on(self, worker: Worker) -> None:
        await thaw(worker, self._bill)
        if not worker.is_leaving and not worker.over.is_set():
            self._queue.employ(worker.id)
            self._came_up(worker)
            self.cold_starts.note(worker, "thawed")

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
