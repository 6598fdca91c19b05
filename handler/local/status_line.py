"""What a person at the terminal sees while the endpoint runs."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from handler.local.worker import WorkerState

if TYPE_CHECKING:
    from rich.console import RenderableType

    from handler.local.bill import Bill
    from handler.local.contracts import Queue
    from handler.local.workers import Workers

REFRESH_S: Final = 0.25
COLD_STARTS: Final = 3
"""So many of the latest are shown."""

_COLOURS: Final = {
    WorkerState.RUNNING: "green", WorkerState.IDLE: "cyan", WorkerState.INITIALIZING: "yellow",
    WorkerState.FROZEN: "blue", WorkerState.STOPPING: "magenta", WorkerState.UNHEALTHY: "red",
    WorkerState.THROTTLED: "red",
}


class StatusLine:
    """The queue, the workers by state, the latest cold starts, and the money so far."""

    def __init__(self, queue: Queue, workers: Workers, bill: Bill) -> None:
        self._queue = queue
        self._workers = workers
        self._bill = bill

    def queue_text(self) -> str:
        """Jobs by state."""
        jobs = self._queue.counts()
        text = f"{jobs.in_queue} waiting, {jobs.in_progress} running, {jobs.completed} done, {jobs.failed} failed"
        return text + (f", {jobs.retried} retried" if jobs.retried else "")

    def workers_text(self) -> str:
        """Workers by state, with rich's marks."""
        states = Counter(worker.state for worker in self._workers)
        parts = [
            f"[{colour}]{states[state]} {state.lower()}[/]" for state, colour in _COLOURS.items() if states[state]
        ]
        return ", ".join(parts) or "none"

    def money_text(self) -> str:
        """Billed seconds, and dollars where there is a price."""
        sum_ = self._bill.so_far()
        if self._bill.price is None:
            return f"{sum_.seconds} worker-seconds (--gpu or --gpu-price tells what they cost)"
        return f"${sum_.cost:.5f} for {sum_.seconds} worker-seconds at ${self._bill.price}/s"

    def render(self) -> RenderableType:
        """All of it."""
        from rich.markup import escape
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row("[bold]queue[/]", self.queue_text())
        table.add_row("[bold]workers[/]", self.workers_text())
        for start in list(self._workers.cold_starts)[-COLD_STARTS:]:
            table.add_row("cold start", escape(f"{start.seconds:.2f} s  {start.worker}: {start.timeline}"))
        table.add_row("[bold]bill[/]", self.money_text())
        return table

    async def keep_fresh(self) -> None:
        """Draw it again and again, for ever; only where somebody can see it."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        with Live(console=console, auto_refresh=False, transient=True) as live, _logging_above(console):
            while True:
                live.update(self.render(), refresh=True)
                await asyncio.sleep(REFRESH_S)


@contextmanager
def _logging_above(console: object) -> Iterator[None]:
    """Log lines scroll by above what is drawn."""
    from rich.logging import RichHandler

    root = logging.getLogger()
    before = root.handlers
    root.handlers = [RichHandler(console=console, show_path=False, markup=False)]  # type: ignore[arg-type]
    try:
        yield
    finally:
        root.handlers = before
