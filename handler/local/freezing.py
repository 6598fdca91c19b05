"""Workers that are stopped in the middle of their lives, and cost nothing until they go on."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from handler.local.bill import Bill
from handler.local.worker import Worker, WorkerState

_log = logging.getLogger("pilotlight.local")


def frozen(workers: Iterable[Worker]) -> list[Worker]:
    """Those that could go on, the last frozen first: most of it may still be in the caches."""
    found = [worker for worker in workers if worker.state is WorkerState.FROZEN and not worker.is_leaving]
    return sorted(found, key=lambda worker: -worker.since)


async def freeze(worker: Worker, bill: Bill) -> None:
    """Stop its clocks, and then what it costs."""
    assert worker.handle is not None
    async with worker.turn:
        await worker.handle.freeze()
        bill.stop(worker.id, "frozen")
        _log.info("worker %s is frozen", worker.id)


async def thaw(worker: Worker, bill: Bill) -> None:
    """Let it go on, which costs from now; one that has ended meanwhile does not."""
    assert worker.handle is not None
    async with worker.turn:
        if not worker.over.is_set():
            bill.start(worker.id)
            await worker.handle.thaw()
