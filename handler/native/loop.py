"""The loop itself: what runs beside what, from the first job taken to the last result delivered."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from handler.billing.journal_place import find_root
from handler.frontend import Frontend
from handler.jobs import Jobs
from handler.native.heartbeat import Heartbeat, ping_interval_s
from handler.native.polling import Poll
from handler.native.posting import Post
from handler.native.protocol import Addresses
from handler.native.results import Outbox
from handler.native.running import Running
from handler.native.shelf import Shelf, shelf_folder
from handler.native.stopping import stop_jobs
from handler.native.streaming import Streams
from handler.native.taking import Room, take_jobs

LAST_S: Final = 5.0
"""The end of the grace, in which results are delivered and the books closed. Of a short grace it is a quarter."""

FAILED_S: Final = 2.5
"""The grace of a worker whose device is lost: its jobs fail at once, and their answers are to be delivered."""

_log = logging.getLogger("pilotlight.worker")


async def work(frontend: Frontend, jobs: Jobs) -> int:
    """Take and answer jobs until a signal ends it, or the device fails; gives the exit status.

    Raises:
        InvalidConfig: the environment names no queue.
    """
    loop = Loop(frontend, jobs, Addresses.read(os.environ))
    try:
        return await loop.run()
    finally:
        await loop.close()


class Loop:
    """One worker's life with the queue."""

    def __init__(self, frontend: Frontend, jobs: Jobs, addresses: Addresses) -> None:
        self._frontend = frontend
        self._addresses = addresses
        self._take_poll, self._stop_poll = Poll(addresses.headers), Poll(addresses.headers)
        self._post = Post(addresses.headers)
        self._outbox = Outbox(self._post, addresses, _shelf(frontend, addresses))
        self._running = Running(jobs, Streams(self._post, addresses), self._outbox)
        self._room = Room(frontend.boot, self._running, self._outbox, frontend.settings.max_concurrency)
        self._heartbeat = Heartbeat(addresses, self._jobs, ping_interval_s(os.environ))
        self._end = _End(0, frontend.settings.grace)
        self._told = asyncio.Event()

    async def run(self) -> int:
        """See `work`."""
        await self._outbox.resume()
        try:
            await self._frontend.boot.wait()
        except Exception as error:
            self._heartbeat.report_unhealthy("model_boots", error)
            _log.error("the model cannot be booted: %s", error)
            return 1
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, self._on_signal)
        return await self._serve()

    async def close(self) -> None:
        """Close every connection."""
        self._heartbeat.stop()
        await asyncio.gather(self._take_poll.close(), self._stop_poll.close(), self._post.close())

    async def _serve(self) -> int:
        self._heartbeat.start()
        take = self._begin(self._take())
        beside = [
            self._begin(part)
            for part in (
                stop_jobs(self._stop_poll, self._addresses, self._running.stop),
                self._outbox.run(),
                self._watch_device(),
            )
        ]
        await self._told.wait()
        await self._drain(take)
        for task in beside:
            task.cancel()
        return self._end.status

    async def _take(self) -> None:
        # Jobs need it. One that imported it while another thread does could meet modules that are half made.
        await asyncio.to_thread(importlib.import_module, "handler.openai.service")
        await take_jobs(self._take_poll, self._addresses, self._room, self._running.start)

    async def _drain(self, take: asyncio.Task[None]) -> None:
        """Take no more, finish what is under way, deliver it, close the books: all within the grace."""
        end_s = time.monotonic() + self._end.grace_s
        last_s = min(LAST_S, self._end.grace_s / 4)
        _leave_at(end_s + LAST_S, self._end.status)
        draining = asyncio.create_task(asyncio.to_thread(self._frontend.recorder.drain))
        await self._take_no_more(take)
        unfinished = await self._running.finish(end_s - last_s - time.monotonic())
        if unfinished:
            _log.warning("not finished, and left to another worker: %s", ", ".join(unfinished))
        if not await self._outbox.emptied(end_s - last_s / 2 - time.monotonic()):
            _log.warning("results that nobody accepted, kept for the next start: %s", ", ".join(self._outbox.jobs))
        self._heartbeat.stop()
        await draining
        await asyncio.to_thread(self._frontend.recorder.close, max(0.0, end_s - time.monotonic()))

    async def _take_no_more(self, take: asyncio.Task[None]) -> None:
        """A poll that is open is left in a way that no job is lost; a job that comes in is begun."""
        self._take_poll.leave()
        if not self._take_poll.is_open:
            take.cancel()
        await asyncio.wait({take})

    async def _watch_device(self) -> None:
        _log.error("the device is lost: %s", await self._frontend.boot.died())
        self._end = _End(1, FAILED_S)
        self._told.set()

    def _begin(self, part: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        return asyncio.create_task(self._guard(part))

    async def _guard(self, part: Coroutine[Any, Any, object]) -> None:
        """A part that breaks ends the worker: one that went on without it would seem to be well."""
        try:
            await part
        except Exception:
            _log.exception("the worker's loop is broken")
            self._end = _End(1, self._end.grace_s)
            self._told.set()

    def _jobs(self) -> list[str]:
        """All that are this worker's: until its result is accepted a job is not the platform's again."""
        return list(dict.fromkeys([*self._running.jobs, *self._outbox.jobs]))

    def _on_signal(self) -> None:
        """End; the second time without waiting for the jobs."""
        if self._told.is_set():
            self._running.stop_all()
        _log.info("told to end, with %d jobs under way", len(self._running.jobs))
        self._told.set()


class _End(NamedTuple):
    """How the worker is to end: the process's status, and the seconds it may take."""

    status: int
    grace_s: float


def _leave_at(moment_s: float, status: int) -> None:
    """The last resort: a chat template that never ends holds a thread that the interpreter would wait for."""
    last = threading.Timer(moment_s - time.monotonic(), os._exit, (status,))
    last.daemon = True
    last.start()


def _shelf(frontend: Frontend, addresses: Addresses) -> Shelf:
    journals = find_root(frontend.settings.journal).root
    return Shelf(shelf_folder(journals, os.environ.get("RUNPOD_ENDPOINT_ID") or "local", addresses.worker))
