"""The endpoint as a process: put together, served until it is told to end, and ended so that nothing is left over."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import uvicorn
from fastapi import FastAPI

from engine.errors import InvalidConfig
from handler.billing.price_list import choose_prices
from handler.local.answers import add_error_handlers
from handler.local.app import make_app, open_queue
from handler.local.autoscaler import Autoscaler
from handler.local.bill import Bill
from handler.local.choices import Choices
from handler.local.client_routes import health
from handler.local.containers import SEEN_STATE, Containers
from handler.local.contracts import ENDPOINT_ID, Queue
from handler.local.launch import Launch, find_sdk_key
from handler.local.listening import server_config
from handler.local.load_balancer import LoadBalancer
from handler.local.management import Management
from handler.local.management_routes import management_router
from handler.local.parts import EndpointSettings, Parts
from handler.local.probing import probe
from handler.local.processes import Processes
from handler.local.proxy_routes import Proxy, proxy_router
from handler.local.runtime import Runtime
from handler.local.status_line import StatusLine
from handler.local.workers import Workers

if TYPE_CHECKING:
    from handler.local.queue import JobQueue

HOST: Final = "127.0.0.1"

_ANSWER_S: Final = 2
"""After the workers: how long the last answers to clients may take."""

_log = logging.getLogger("pilotlight.local")


class Endpoint:
    """One endpoint and all that belongs to it. It belongs to one event loop."""

    def __init__(self, choices: Choices, queue: JobQueue, listener: socket.socket) -> None:
        base_url = f"http://{HOST}:{listener.getsockname()[1]}"
        self._listener = listener
        self._balancer = LoadBalancer() if choices.mode == "load-balancer" else None
        self._queue: Queue = self._balancer or queue
        self._bill = Bill(choices.state / "bill.jsonl", choices.price)
        self._runtime = _runtime(choices)
        launch = _launch(choices, base_url)
        launch.tidy()
        self._workers = Workers(self._queue, self._runtime, self._bill, launch, choices.flashboot)
        self._scaler = Autoscaler(self._queue, self._workers, choices.scaling)
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(), trust_env=False)
        self._server = _Server(server_config(
            self._app(choices, queue, base_url), log_config=None, access_log=False, timeout_graceful_shutdown=_ANSWER_S
        ))
        _log.info("listening on %s (the endpoint: %s)", base_url, self._place(base_url))

    async def run(self) -> None:
        """Serve until a signal; then let the workers finish, and end."""
        if swept := await self._runtime.sweep():
            _log.warning("containers of an endpoint that was killed are removed: %d", swept)
        told = _told_to_end()
        status = StatusLine(self._queue, self._workers, self._bill)
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        at_work = [asyncio.create_task(work) for work in (self._scaler.run(), self._probe(), status.keep_fresh())]
        ends = (asyncio.create_task(told.wait()), serving, *at_work[:1])
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        at_work[0].cancel()
        try:
            await self._end_workers(told)
            self._server.should_exit = True
            await serving
        finally:
            for task in at_work:
                task.cancel()
            results = await asyncio.gather(*at_work, return_exceptions=True)
            self._bill.close()
            await self._client.aclose()
        _log.info("the bill: %s", status.money_text())
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _end_workers(self, told: asyncio.Event) -> None:
        """Each within the grace, or at once when told a second time."""
        told.clear()
        ending = asyncio.create_task(self._workers.close())
        again = asyncio.create_task(told.wait())
        await asyncio.wait((ending, again), return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not ending.done():
            await self._workers.kill()
        await ending

    async def _probe(self) -> None:
        if self._balancer is not None:
            await probe(self._workers, self._balancer, self._client)

    def _app(self, choices: Choices, queue: JobQueue, base_url: str) -> FastAPI:
        settings = EndpointSettings(choices.api_keys, choices.rate_limits)
        app = make_app(queue, self._workers, settings) if self._balancer is None else _bare_app()
        app.state.parts = Parts(queue, self._workers, settings)
        app.state.management = Management(
            queue, self._scaler, self._workers, self._bill, choose_prices(None), base_url, choices.image or "process",
            choices.mode, choices.gpu, choices.variables,
        )
        app.include_router(management_router(), prefix="/v2")
        if self._balancer is None:
            app.get("/health", tags=["health"], response_model=None)(health)
        else:
            app.state.proxy = Proxy(self._balancer, self._workers, self._client)
            app.include_router(proxy_router())
        return app

    def _place(self, base_url: str) -> str:
        return base_url if self._balancer is not None else f"{base_url}/v2/{ENDPOINT_ID}"


async def serve(choices: Choices) -> None:
    """Make the endpoint and serve it to its end.

    Raises:
        PilotlightError: why it cannot be made.
    """
    with _listening(choices.port) as listener:
        async with open_queue(choices.state) as queue:
            queue.most_attempts = choices.attempts
            await Endpoint(choices, queue, listener).run()


def _bare_app() -> FastAPI:
    """Nothing of FastAPI's own but its errors: every other path is the workers'."""
    app = FastAPI(title="Pilotlight: the load balancer", docs_url=None, redoc_url=None, openapi_url=None)
    add_error_handlers(app)
    return app


class _Server(uvicorn.Server):
    """uvicorn without its signals: workers need it until they have ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _told_to_end() -> asyncio.Event:
    told = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, told.set)
    return told


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((HOST, port), backlog=1024)
    except OSError as error:
        raise InvalidConfig(f"cannot listen on {HOST} port {port}: {error.strerror}") from error
    with listener:
        yield listener


def _runtime(choices: Choices) -> Runtime:
    if choices.runtime == "process":
        return Processes()
    assert choices.image is not None
    return Containers(choices.runtime, choices.image, choices.state, choices.options)


def _launch(choices: Choices, base_url: str) -> Launch:
    in_container = choices.runtime != "process"
    return Launch(
        base_url, choices.state, choices.variables, choices.gpu, choices.price, choices.ping_s, choices.grace_s,
        SEEN_STATE if in_container else None, None if in_container else find_sdk_key(Path.home()),
        listening=choices.mode == "load-balancer",
    )
