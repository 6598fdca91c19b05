"""Passes whatever is asked on to a worker, and its answer back as it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpx
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from handler.hanging_up import while_connected
from handler.local.load_balancer import LoadBalancer, NoWorker, Wish, WorkerGone
from handler.local.parts import check_client
from handler.local.workers import Workers

BODY_BYTES: Final = 30_000_000
PROCESSING_S: Final = 330.0
"""RunPod's documentation, "Load balancing endpoints": 30 MB, and 5.5 minutes."""

HEADER: Final = "X-Runpod-Worker-Id"

_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_OF_ONE_CONNECTION: Final = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade",
}
"""Header lines that are not passed on (RFC 9110, 7.6.1)."""

_ASKED_ANEW: Final = _OF_ONE_CONNECTION | {"host", "content-length"}
_ANSWERED_ANEW: Final = _OF_ONE_CONNECTION | {"date", "server"}
"""These, and those that each connection makes itself."""

_log = logging.getLogger("pilotlight.local")


@dataclass(frozen=True, slots=True)
class Proxy:
    """What the route works with; the application's `state.proxy`."""

    balancer: LoadBalancer
    workers: Workers
    client: httpx.AsyncClient


def proxy_router() -> APIRouter:
    """Every path that no other route has."""
    router = APIRouter(tags=["workers"], dependencies=[Depends(check_client)], include_in_schema=False)
    router.api_route("/{path:path}", methods=_METHODS, response_model=None)(forward)
    return router


async def forward(request: Request) -> Response:
    """Find a worker, wait for one if need be, and pass the request on."""
    proxy: Proxy = request.app.state.proxy
    body = await _read(request)
    if body is None:
        return _error(413, f"the body has more than {BODY_BYTES} bytes")
    wish = Wish.read(request.headers.get(HEADER, ""))
    if wish is not None and wish.affinity == "strict-resume":
        proxy.workers.resume(wish.worker_id)
    try:
        return await while_connected(request, _answer(proxy, request, body, wish))
    except NoWorker as error:
        return _error(400, str(error))
    except WorkerGone as error:
        return _error(404, str(error))
    except httpx.HTTPError as error:
        return _error(502, f"the worker did not answer: {type(error).__name__}")


async def _answer(proxy: Proxy, request: Request, body: bytes, wish: Wish | None) -> Response:
    """The worker's answer from its first header line on; the worker is the request's until its end."""
    async with AsyncExitStack() as stack:
        worker_id = await stack.enter_async_context(proxy.balancer.worker(wish))
        upstream = await proxy.client.send(_asked_anew(proxy, request, body, worker_id), stream=True)
        stack.push_async_callback(upstream.aclose)
        return _Passed(upstream, worker_id, stack.pop_all())


def _asked_anew(proxy: Proxy, request: Request, body: bytes, worker_id: str) -> httpx.Request:
    headers = [line for line in request.headers.items() if line[0] not in _ASKED_ANEW]
    asked = request.scope["raw_path"] + (b"?" + query if (query := request.scope["query_string"]) else b"")
    url = httpx.URL(proxy.workers.url_of(worker_id)).copy_with(raw_path=asked)
    return proxy.client.build_request(request.method, url, headers=headers, content=body, timeout=PROCESSING_S)


class _Passed(StreamingResponse):
    """A worker's answer as it comes. Where it breaks off, so does this: nobody shall take it for the whole."""

    def __init__(self, upstream: httpx.Response, worker_id: str, stack: AsyncExitStack) -> None:
        super().__init__(_parts(upstream, stack), upstream.status_code)
        self._worker_id, self._stack = worker_id, stack
        self.raw_headers = [line for line in upstream.headers.raw if line[0].decode().lower() not in _ANSWERED_ANEW]
        self.headers[HEADER] = worker_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, in ASGI's terms. A client that left early may have had nothing of the body begun."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stack.aclose()

    async def stream_response(self, send: Send) -> None:
        """Send it. The server closes the connection where the last message is missing."""
        try:
            await super().stream_response(send)
        except (httpx.HTTPError, TimeoutError) as error:
            _log.warning("worker %s broke off its answer: %s", self._worker_id, str(error) or type(error).__name__)


async def _parts(upstream: httpx.Response, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The body as it comes; cut off where the worker takes too long, or goes."""
    async with stack, asyncio.timeout(PROCESSING_S):
        async for part in upstream.aiter_raw():
            yield part


async def _read(request: Request) -> bytes | None:
    """The body; None if it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_BYTES:
            return None
    return bytes(body)


def _error(status: int, what: str) -> Response:
    return JSONResponse({"error": what}, status)
