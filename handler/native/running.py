"""The jobs under way, a task each, from being taken to having a result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from handler.jobs import Jobs
from handler.native.protocol import Job, encode
from handler.native.results import Outbox
from handler.native.streaming import Streams

_log = logging.getLogger("pilotlight.worker")


class Running:
    """Runs jobs, as many at once as are started.

    Attributes:
        ended: set whenever a job ends; whoever waits for that clears it.
    """

    def __init__(self, jobs: Jobs, streams: Streams, outbox: Outbox) -> None:
        self._jobs = jobs
        self._streams = streams
        self._outbox = outbox
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.ended = asyncio.Event()

    @property
    def jobs(self) -> Sequence[str]:
        """The ids of those without a result. Any thread may ask."""
        return list(self._tasks)

    def start(self, job: Job) -> bool:
        """Run this job; False for one that this worker runs already, or has a result of."""
        name = job["id"]
        if name in self._tasks or name in self._outbox.jobs:
            _log.warning("%s was handed out again, and is here already", name)
            return False
        task = asyncio.create_task(self._run(name, job), name=name)
        self._tasks[name] = task
        task.add_done_callback(self._on_end(name))
        return True

    def stop(self, name: str) -> None:
        """Abort a job, which then has no result; one that is not here is no error."""
        if name in self._tasks:
            _log.info("%s is stopped", name)
            self._tasks[name].cancel()

    def stop_all(self) -> None:
        """The same for every job."""
        for name in self.jobs:
            self.stop(name)

    async def finish(self, within_s: float) -> Sequence[str]:
        """Wait for the jobs' ends, and abort what is left then; gives the ids of those that have no result."""
        if tasks := list(self._tasks.values()):
            await asyncio.wait(tasks, timeout=within_s)
        left = list(self._tasks.values())
        unfinished = [name for name in self.jobs if name not in self._outbox.jobs]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return unfinished

    def _on_end(self, name: str) -> Callable[[asyncio.Task[None]], None]:
        def end(task: asyncio.Task[None]) -> None:
            self._tasks.pop(name, None)
            self.ended.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("%s has failed in the loop itself", name, exc_info=error)

        return end

    async def _run(self, name: str, job: Job) -> None:
        body = await self._result(name, job)
        await self._outbox.put(name, encode(body))
        _log.info("%s has ended", name)

    async def _result(self, name: str, job: Job) -> Mapping[str, Any]:
        outputs = []
        stream = self._streams.open(name)
        async with aclosing(self._jobs.handle(job)) as made:
            async for output in made:
                if isinstance(output, dict) and output.get("error"):
                    return {"error": str(output["error"])}
                outputs.append(output)
                await stream.send(output)
        return {"output": outputs}
