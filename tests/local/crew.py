"""Workers under test: real processes of small programs, over a real queue, in an event loop of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.local.autoscaler import Autoscaler
from handler.local.bill import Bill
from handler.local.launch import Launch
from handler.local.processes import Processes
from handler.local.queue import JobQueue
from handler.local.scaler import Scaling
from handler.local.worker import Worker, WorkerState
from handler.local.workers import Workers

PATIENT = "import time; time.sleep(600)"
"""A worker that does nothing until SIGTERM ends it."""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('set', flush=True)
time.sleep(600)
"""
FAILING = "import sys; sys.exit('the model is not there')"
COUNTING = """
import time
for number in range(10000):
    print(number, flush=True)
    time.sleep(0.01)
"""
WRITING = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('it ends', flush=True)))
print('zero\\nfirst\\nsecond\\nthird', flush=True)
signal.pause()
"""


@dataclass
class Crew:
    """An endpoint without its routes: the test says what workers would have said."""

    queue: JobQueue
    workers: Workers
    scaler: Autoscaler
    bill: Bill

    def all(self) -> list[Worker]:
        return list(self.workers)

    @property
    def only(self) -> Worker:
        [worker] = self.workers
        return worker

    async def started(self) -> Worker:
        """The one worker, once it runs and has said so."""
        await becomes(lambda: self.all() and self.only.handle is not None)
        self.workers.asks_for_jobs(self.only.id)
        return self.only

    async def is_in(self, state: WorkerState) -> None:
        await becomes(lambda: self.all() and self.only.state is state)

    async def is_gone(self) -> None:
        await becomes(lambda: not self.all())


async def becomes(read: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until it is true."""
    end = time.monotonic() + seconds
    while not read():
        assert time.monotonic() < end, "it did not become so"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def crew(
    folder: Path, program: str, scaling: Scaling | None = None, flashboot: bool = False, ping_s: int = 10,
    grace_s: float = 5,
) -> AsyncIterator[Crew]:
    import sys

    queue, bill = JobQueue(), Bill(folder / "bill.jsonl")
    launch = Launch("http://127.0.0.1:1", folder, ping_s=ping_s, grace_s=grace_s)
    workers = Workers(queue, Processes((sys.executable, "-c", program)), bill, launch, flashboot)
    scaler = Autoscaler(queue, workers, scaling or Scaling(idle_timeout_s=1))
    scaling_task = asyncio.create_task(scaler.run())
    try:
        yield Crew(queue, workers, scaler, bill)
    finally:
        scaling_task.cancel()
        await workers.kill()
        await workers.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's body in a loop of its own."""
    asyncio.run(test)
