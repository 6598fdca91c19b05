"""A local endpoint under test: its routes over a real server, and workers that are started by hand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn

from handler.connection import Bounds
from handler.local.addresses import worker_environment
from handler.local.app import make_app, open_queue
from handler.local.contracts import WorkerCounts
from handler.local.faults import Faults
from handler.local.listening import BOUNDS, server_config
from handler.local.parts import EndpointSettings
from handler.local.queue import JobQueue
from tests.handler.processes import START_S, eventually

KEY = "worker-key"
T = TypeVar("T")


@dataclass
class HandMadeCrew:
    """Workers that a test starts itself: any with the right key, unless it is dismissed. Remembers what it is told."""

    dismissed: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    pings: list[tuple[str, Sequence[str], str | None]] = field(default_factory=list)
    to_replace: list[str] = field(default_factory=list)

    def authorises(self, worker_id: str, key: str) -> bool:
        return key == KEY and worker_id not in self.dismissed

    def asks_for_jobs(self, worker_id: str) -> None:
        self.asked.append(worker_id)

    def pinged(self, worker_id: str, job_ids: Sequence[str], complaint: str | None) -> None:
        self.pings.append((worker_id, job_ids, complaint))

    def wants_replacement(self, worker_id: str) -> None:
        self.to_replace.append(worker_id)

    def counts(self) -> WorkerCounts:
        return WorkerCounts(idle=len(set(self.asked) - self.dismissed))


class LocalEndpoint:
    """Listens in a thread of its own; `on_loop` does things where the queue lives."""

    def __init__(
        self, folder: Path | None = None, settings: EndpointSettings | None = None, bounds: Bounds = BOUNDS
    ) -> None:
        self.port = 0
        self.crew = HandMadeCrew()
        self.queue: JobQueue
        self.faults: Faults
        self._folder = folder
        self._settings = settings or EndpointSettings(poll_s=1)
        self._bounds = bounds
        self._server: uvicorn.Server
        self._loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, worker_id: str) -> dict[str, str]:
        """What a worker process is to find."""
        return worker_environment(self.url, worker_id, KEY, ping_s=1)

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": key} if key else {}
        return httpx.Client(base_url=f"{self.url}/v2/local", headers=headers, timeout=60)

    def worker(self, worker_id: str = "pod1") -> HandWorker:
        """A worker whose every call a test makes."""
        return HandWorker(self.client(KEY), worker_id)

    def on_loop(self, act: Callable[[], T]) -> T:
        async def acted() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(START_S)

    def soon(self, act: Callable[[], object]) -> None:
        """As `on_loop`, without waiting for it."""
        self._loop.call_soon_threadsafe(act)

    @contextmanager
    def listening(self) -> Iterator[LocalEndpoint]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(listener)), daemon=True)
        thread.start()
        assert eventually(lambda: hasattr(self, "_server") and self._server.started)
        try:
            yield self
        finally:
            self._server.should_exit = True
            thread.join(START_S)

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        async with open_queue(self._folder) as self.queue:
            self.faults = Faults(make_app(self.queue, self.crew, self._settings))
            self._server = uvicorn.Server(
                server_config(self.faults, self._bounds, log_level="warning", timeout_graceful_shutdown=1)
            )
            await self._server.serve(sockets=[listener])


@dataclass
class HandWorker:
    """Speaks the worker's protocol, call by call."""

    http: httpx.Client
    id: str

    def take(self, count: int = 1) -> httpx.Response:
        if count == 1:
            return self.http.get(f"/job-take/{self.id}", params={"gpu": "local", "job_in_progress": 0})
        return self.http.get(f"/job-take-batch/{self.id}", params={"gpu": "local", "batch_size": count})

    def await_job(self) -> Any:
        """The next job, whenever it comes."""
        return eventually(lambda: answer.json() if (answer := self.take()).status_code == 200 else None)

    def await_stops(self) -> Any:
        """What is to be stopped, whenever it is told."""
        return eventually(lambda: answer.json() if (answer := self.stops()).status_code == 200 else None)

    def stream(self, job_id: str, output: object) -> httpx.Response:
        return self.http.post(f"/job-stream/{self.id}/{job_id}?gpu=local&isStream=false", json={"output": output})

    def done(self, job_id: str, **body: object) -> httpx.Response:
        return self.http.post(f"/job-done/{self.id}/{job_id}?gpu=local&isStream=true", json=body)

    def stops(self) -> httpx.Response:
        return self.http.get(f"/job-stop/{self.id}?gpu=local")
