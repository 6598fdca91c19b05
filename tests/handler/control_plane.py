"""The part of RunPod's control plane that a worker talks to, faithful to what the SDK sends and expects.

Paths, headers and bodies are those of runpod 1.12: take, take-batch, stop, stream, done and ping, the bare key as
authorisation, JSON sent as a form. It can be told to fail, and to be far away; it counts what it is asked.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.handler.processes import START_S, eventually

KEY = "worker-key"
WORKER = "pod7"
POLL_S = 1.0
"""How long an empty poll is held. The SDK ends only when its polls have, so this bounds a test's end."""

Route = Literal["take", "stop", "stream", "done", "ping"]


@dataclass(frozen=True)
class Fault:
    """How a route fails: with an answer of this status and text, or with a cut connection.

    Attributes:
        after_s: seconds until then.
        over: only requests whose body has more bytes fail.
    """

    status: int = 200
    text: str = ""
    after_s: float = 0.0
    cut: bool = False
    over: int = -1


@dataclass(frozen=True)
class Seen:
    """A request, at this monotonic time."""

    route: Route
    at: float
    job: str | None
    batch: int | None


@dataclass
class Result:
    """What a worker has sent about a job, and when, in monotonic seconds. `done` is the final body.

    Attributes:
        is_stream: whether the final body came as a stream's.
    """

    streamed: list[Any] = field(default_factory=list)
    done: dict[str, Any] | None = None
    is_stream: str | None = None
    times_done: int = 0
    streamed_at: float = 0.0
    done_at: float = 0.0


class ControlPlane:
    """Jobs to hand out, and what came back.

    Attributes:
        round_trip_s: how long every message to it and its answer take together.
        poll_s: how long it holds an empty poll; those that are open heed a change.
        handed: when each job was handed out last, in monotonic seconds.
        seen: every request.
    """

    def __init__(self, round_trip_s: float = 0.0, poll_s: float = POLL_S) -> None:
        self.port = 0
        self.round_trip_s = round_trip_s
        self.poll_s = poll_s
        self.results: dict[str, Result] = defaultdict(Result)
        self.pings: list[dict[str, str]] = []
        self.faults: list[str] = []
        self.handed: dict[str, float] = {}
        self.seen: list[Seen] = []
        self._waiting: deque[dict[str, Any]] = deque()
        self._stops: deque[str] = deque()
        self._failing: dict[Route, Fault] = {}

    def put(self, job_id: str, given: object) -> None:
        """Queue a job."""
        self._waiting.append({"id": job_id, "input": given})

    def put_raw(self, job: dict[str, Any]) -> None:
        """Queue what may be no proper job."""
        self._waiting.append(job)

    def stop_job(self, job_id: str) -> None:
        """Have a running job stopped."""
        self._stops.append(job_id)

    def run(self, job_id: str, given: object) -> Result:
        """Queue a job and wait for its end."""
        self.put(job_id, given)
        assert self.ended(job_id), f"{job_id} came to no end"
        return self.results[job_id]

    def ended(self, *job_ids: str, within_s: float = START_S) -> bool:
        """Whether each of these has a result, in so many seconds."""
        return eventually(lambda: all(self.results[job_id].done is not None for job_id in job_ids), within_s)

    @contextmanager
    def failing(self, route: Route, fault: Fault) -> Iterator[None]:
        """Have a route fail."""
        self._failing[route] = fault
        try:
            yield
        finally:
            del self._failing[route]

    def asked(self, *routes: Route, since: float = 0.0) -> list[Seen]:
        """The requests to these routes since then, all of them if none is named."""
        return [seen for seen in self.seen if seen.at >= since and (not routes or seen.route in routes)]

    def environment(self) -> dict[str, str]:
        """What RunPod sets for a worker."""
        base = f"http://127.0.0.1:{self.port}/v2/ep1"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=SIM",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=SIM",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=SIM",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": KEY,
            "RUNPOD_POD_ID": WORKER,
            "RUNPOD_ENDPOINT_ID": "ep1",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    @contextmanager
    def listening(self) -> Iterator[ControlPlane]:
        """Serve in a thread."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

        async def serve() -> None:
            runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            started.set()
            await stop.wait()
            await runner.cleanup()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        assert started.wait(START_S)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(START_S)
            loop.close()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        post, get, base = app.router.add_post, app.router.add_get, "/v2/ep1"
        get(f"{base}/job-take/{{worker}}", self._route("take", self._take))
        get(f"{base}/job-take-batch/{{worker}}", self._route("take", self._take))
        get(f"{base}/job-stop/{{worker}}", self._route("stop", self._stop))
        post(f"{base}/job-stream/{{worker}}/{{job}}", self._route("stream", self._stream))
        post(f"{base}/job-done/{{worker}}/{{job}}", self._route("done", self._done))
        get(f"{base}/ping/{{worker}}", self._route("ping", self._ping))
        return app

    def _route(
        self, route: Route, answer: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            batch = request.query.get("batch_size")
            job = request.match_info.get("job")
            self.seen.append(Seen(route, time.monotonic(), job, int(batch) if batch else None))
            if request.headers.get("authorization") != KEY or request.match_info["worker"] != WORKER:
                self.faults.append(f"{request.url} came without the key or from another worker")
                return web.Response(status=401)
            fault = self._failing.get(route)
            if fault is not None and len(await request.read()) > fault.over:
                return await _fail(request, fault)
            await asyncio.sleep(self.round_trip_s / 2)
            answered = await answer(request)
            await asyncio.sleep(self.round_trip_s / 2)
            return answered

        return handle

    async def _take(self, request: web.Request) -> web.Response:
        most = int(request.query.get("batch_size", 1))
        await self._hold(self._waiting)
        jobs = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self.handed |= {str(job.get("id")): time.monotonic() for job in jobs}
        if not jobs:
            return web.Response(status=204)
        return web.json_response(jobs if "batch_size" in request.query else jobs[0])

    async def _stop(self, request: web.Request) -> web.Response:
        await self._hold(self._stops)
        if not self._stops:
            return web.Response(status=204)
        return web.json_response({"jobsToStop": [self._stops.popleft()]})

    async def _hold(self, waited_for: deque[Any]) -> None:
        began = time.monotonic()
        while time.monotonic() < began + self.poll_s:
            if waited_for:
                return
            await asyncio.sleep(0.01)

    async def _stream(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        result = self.results[request.match_info["job"]]
        result.streamed.append(body["output"])
        result.streamed_at = time.monotonic()
        return web.Response()

    async def _done(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        result = self.results[request.match_info["job"]]
        result.is_stream = request.query["isStream"]
        result.done_at = time.monotonic()
        result.times_done += 1
        result.done = body
        return web.Response()

    async def _ping(self, request: web.Request) -> web.Response:
        self.pings.append(dict(request.query))
        return web.Response()

    async def _body(self, request: web.Request) -> dict[str, Any]:
        if request.headers["content-type"] != "application/x-www-form-urlencoded":
            self.faults.append(f"{request.url} came as {request.headers['content-type']}")
        body: dict[str, Any] = json.loads(await request.read())
        return body


async def _fail(request: web.Request, fault: Fault) -> web.Response:
    await asyncio.sleep(fault.after_s)
    if fault.cut and request.transport is not None:
        request.transport.abort()
    return web.Response(status=fault.status, text=fault.text)
