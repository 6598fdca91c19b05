"""Passes whatever is asked on to a worker, and its answer back as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpx
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

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
    stack = AsyncExitStack()
    try:
        worker_id = await stack.enter_async_context(proxy.balancer.worker(wish))
        return await _answer(proxy, request, body, worker_id, stack)
    except NoWorker as error:
        return _error(400, str(error))
    except WorkerGone as error:
        return _error(404, str(error))
    except httpx.HTTPError as error:
        await stack.aclose()
        return _error(502, f"the worker did not answer: {type(error).__name__}")
    except BaseException:
        await stack.aclose()
        raise


async def _answer(
    proxy: Proxy, request: Request, body: bytes, worker_id: str, stack: AsyncExitStack
) -> StreamingResponse:
    """The worker's answer from its first header line on; `stack` is closed at its end."""
    headers = [line for line in request.headers.items() if line[0] not in _ASKED_ANEW]
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    asked = proxy.client.build_request(
        request.method, f"{proxy.workers.url_of(worker_id)}{path}", headers=headers, content=body, timeout=PROCESSING_S
    )
    upstream = await proxy.client.send(asked, stream=True)
    stack.push_async_callback(upstream.aclose)
    response = StreamingResponse(_parts(upstream, stack), upstream.status_code)
    response.raw_headers = [line for line in upstream.headers.raw if line[0].decode().lower() not in _ANSWERED_ANEW]
    response.headers[HEADER] = worker_id
    return response


async def _parts(upstream: httpx.Response, stack: AsyncExitStack) -> AsyncIterator[bytes]:
    """The body as it comes; cut off where the worker takes too long, or goes."""
    async with stack:
        async with asyncio.timeout(PROCESSING_S):
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
