"""The control plane of `pilotlight up` in the place of the tests' own, so that the same scenarios run against both."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, get_args
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.local.job import Asked
from handler.local.parts import EndpointSettings
from tests.handler.control_plane import POLL_S, WORKER, ControlPlane, Fault, Route, Seen
from tests.local.endpoint import LocalEndpoint

_PATH: Final = re.compile(r"/v2/local/(?:job-)?(take|stop|stream|done|ping)(?:-batch)?/[^/]+(?:/(.+))?")


class LocalPlane(ControlPlane):
    """A `ControlPlane` whose jobs `handler/local` keeps. They have names here, and ids there."""

    def __init__(self, poll_s: float = POLL_S) -> None:
        super().__init__(poll_s=poll_s)
        self.names: dict[str, str] = {}
        self._endpoint = LocalEndpoint(settings=EndpointSettings(poll_s=poll_s))

    def put(self, job_id: str, given: object) -> None:
        def submit() -> None:
            self.names[self._endpoint.queue.submit(Asked(given)).id] = job_id

        self._endpoint.on_loop(submit)

    def put_raw(self, job: dict[str, Any]) -> None:
        """No input is null here."""
        self.put(job["id"], job.get("input"))

    def stop_job(self, job_id: str) -> None:
        [wanted] = [key for key, name in self.names.items() if name == job_id]
        self._endpoint.on_loop(lambda: self._endpoint.queue.cancel(wanted))

    def environment(self) -> dict[str, str]:
        return self._endpoint.environment(WORKER)

    def fault_of(self, route: Route, size: int) -> Fault | None:
        """What a request of so many bytes meets."""
        fault = self._failing.get(route)
        return None if fault is None or size <= fault.over else fault

    @contextmanager
    def listening(self) -> Iterator[LocalPlane]:
        with self._endpoint.listening():
            self._endpoint.faults.app = _Witness(self._endpoint.faults.app, self)
            yield self


@dataclass
class _Call:
    """A worker's request, read, and its answer."""

    body: bytes
    status: int = 0
    answer: bytearray = field(default_factory=bytearray)


@dataclass
class _Witness:
    """ASGI middleware: notes what workers ask and send, and has requests meet their faults."""

    app: ASGIApp
    plane: LocalPlane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None:
            await self.app(scope, receive, send)
            return
        route = next(name for name in get_args(Route) if name == match[1])
        query = parse_qs(scope["query_string"].decode())
        name = self.plane.names.get(match[2] or "", match[2])
        batch = int(query["batch_size"][0]) if "batch_size" in query else None
        self.plane.seen.append(Seen(route, time.monotonic(), name, batch))
        if route == "ping":
            self.plane.pings.append({key: values[0] for key, values in query.items()})
        call = _Call(await _read(receive) if scope["method"] == "POST" else b"")
        fault = self.plane.fault_of(route, len(call.body))
        if fault is not None:
            await _fail(fault, send)
            return
        await self.app(scope, _again(call.body, receive) if call.body else receive, _noting(call, send))
        if call.status == 200:
            self._note(route, name, call)

    def _note(self, route: Route, name: str | None, call: _Call) -> None:
        now = time.monotonic()
        if route == "take":
            taken = json.loads(call.answer)
            jobs = taken if isinstance(taken, list) else [taken]
            self.plane.handed |= {self.plane.names[job["id"]]: now for job in jobs}
        elif name is not None:
            result, body = self.plane.results[name], json.loads(call.body)
            if route == "stream":
                result.streamed.append(body["output"])
                result.streamed_at = now
            else:
                result.times_done += 1
                result.done, result.done_at = body, now


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read already, then what comes."""
    read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def take() -> Message:
        return read.pop() if read else await receive()

    return take


def _noting(call: _Call, send: Send) -> Send:
    async def note(message: Message) -> None:
        call.status = message.get("status", call.status)
        call.answer += message.get("body", b"")
        await send(message)

    return note


async def _fail(fault: Fault, send: Send) -> None:
    """A connection is cut after the answer's head: a server cannot do it any earlier."""
    await asyncio.sleep(fault.after_s)
    length = 1_000_000 if fault.cut else len(fault.text)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": fault.text.encode()})
