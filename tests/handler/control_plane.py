"""The part of RunPod's control plane that a worker talks to, faithful to what the SDK sends and expects.

Paths, headers and bodies are those of runpod 1.12: take, take-batch, stop, stream, done and ping, the bare key as
authorisation, JSON sent as a form.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response

from tests.handler.processes import eventually, free_port

KEY = "worker-key"
WORKER = "pod7"
POLL_S = 1.0
"""How long an empty poll is held. The SDK ends only when its polls have, so this bounds a test's end."""


@dataclass
class Result:
    """What a worker has sent about a job. `done` is the final body, `stops` whether it came as a stream's."""

    streamed: list[Any] = field(default_factory=list)
    done: dict[str, Any] | None = None
    is_stream: str | None = None


class ControlPlane:
    """Jobs to hand out, and what came back."""

    def __init__(self) -> None:
        self.port = free_port()
        self.results: dict[str, Result] = defaultdict(Result)
        self.pings: list[dict[str, str]] = []
        self.faults: list[str] = []
        self._waiting: deque[dict[str, Any]] = deque()
        self._stops: deque[str] = deque()

    def put(self, job_id: str, given: object) -> None:
        """Queue a job."""
        self._waiting.append({"id": job_id, "input": given})

    def stop_job(self, job_id: str) -> None:
        """Have a running job stopped."""
        self._stops.append(job_id)

    def run(self, job_id: str, given: object) -> Result:
        """Queue a job and wait for its end."""
        self.put(job_id, given)
        assert eventually(lambda: self.results[job_id].done is not None), f"{job_id} came to no end"
        return self.results[job_id]

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
        server = uvicorn.Server(uvicorn.Config(self._app(), port=self.port, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert eventually(lambda: server.started)
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.get("/v2/ep1/job-take/{worker}", response_model=None)(self._take)
        app.get("/v2/ep1/job-take-batch/{worker}", response_model=None)(self._take_batch)
        app.get("/v2/ep1/job-stop/{worker}", response_model=None)(self._stop)
        app.post("/v2/ep1/job-stream/{worker}/{job_id}")(self._stream)
        app.post("/v2/ep1/job-done/{worker}/{job_id}")(self._done)
        app.get("/v2/ep1/ping/{worker}")(self._ping)
        return app

    def _check(self, request: Request, worker: str) -> None:
        if request.headers.get("authorization") != KEY or worker != WORKER:
            self.faults.append(f"{request.url} came without the key or from another worker")
            raise HTTPException(401)

    async def _take(self, request: Request, worker: str) -> Response:
        self._check(request, worker)
        jobs = await self._poll(request, 1)
        return JSONResponse(jobs[0]) if jobs else Response(status_code=204)

    async def _take_batch(self, request: Request, worker: str, batch_size: int) -> Response:
        self._check(request, worker)
        jobs = await self._poll(request, batch_size)
        return JSONResponse(jobs) if jobs else Response(status_code=204)

    async def _poll(self, request: Request, most: int) -> list[dict[str, Any]]:
        for _ in range(int(POLL_S / 0.02)):
            if await request.is_disconnected():
                return []
            if self._waiting:
                break
            await asyncio.sleep(0.02)
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    async def _stop(self, request: Request, worker: str) -> Response:
        self._check(request, worker)
        for _ in range(int(POLL_S / 0.02)):
            if self._stops:
                return JSONResponse({"jobsToStop": [self._stops.popleft()]})
            await asyncio.sleep(0.02)
        return Response(status_code=204)

    async def _stream(self, request: Request, worker: str, job_id: str) -> None:
        body = await self._body(request, worker)
        self.results[job_id].streamed.append(body["output"])

    async def _done(self, request: Request, worker: str, job_id: str) -> None:
        body = await self._body(request, worker)
        self.results[job_id].is_stream = request.query_params["isStream"]
        self.results[job_id].done = body

    async def _ping(self, request: Request, worker: str) -> None:
        self._check(request, worker)
        self.pings.append(dict(request.query_params))

    async def _body(self, request: Request, worker: str) -> dict[str, Any]:
        self._check(request, worker)
        if request.headers["content-type"] != "application/x-www-form-urlencoded":
            self.faults.append(f"{request.url} came as {request.headers['content-type']}")
        body: dict[str, Any] = json.loads(await request.body())
        return body
