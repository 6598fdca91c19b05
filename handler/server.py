"""`pilotlight serve`: the HTTP server as a process. The boot begins first, everything else is imported beside it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
from typing import TYPE_CHECKING, Final

from engine.errors import InvalidConfig, PilotlightError
from handler.booting import LAST_WORDS_S, Boot, take_over_process

if TYPE_CHECKING:
    from handler.frontend import Frontend
    from handler.graceful import GracefulServer
    from handler.settings import Settings

FAILURE_NOTICE_S: Final = 2.0
"""After a device error: how long `/health` says so, and last answers are sent, before the process exits."""

_BACKLOG: Final = 128
"""Connections the system holds while the server is busy. With no file descriptor left, the event loop tries, and logs,
as often as this in one go."""

_log = logging.getLogger("pilotlight.server")


def serve(model: str | None = None, **overrides: object) -> int:
    """Serve until told to stop, and give the exit status: 0 after SIGTERM or SIGINT, 1 after an error.

    Args:
        overrides: fields of `Settings` that win over the environment, where they are not None.
    """
    take_over_process()
    boot = Boot(model)
    error = None
    try:
        settings = _begin(boot, {"model": model, **overrides})
        error = asyncio.run(_serve(boot, settings, _listen(settings)))
    except InvalidConfig as invalid:
        error = str(invalid)
    if error is not None:
        print(f"pilotlight: {error}", file=sys.stderr)
    return boot.end(0 if error is None else 1)


def _begin(boot: Boot, overrides: dict[str, object]) -> Settings:
    from handler import logs
    from handler.settings import read_settings

    logs.configure()
    settings = read_settings(**overrides)
    boot.begin(settings.engine_config())
    return settings


def _listen(settings: Settings) -> list[socket.socket]:
    """Listening sockets: from here on the system takes connections, which wait until the server answers them."""
    listeners = [_listener(settings.host, settings.port)]
    if settings.health_port not in (None, settings.port):
        listeners.append(_listener(settings.host, settings.health_port))
    keyed = settings.api_keys or settings.api_keys_file
    if not keyed and not ipaddress.ip_address(listeners[0].getsockname()[0]).is_loopback:
        _log.warning("listening on %s without an API key: anyone who can reach it may use it", settings.host)
    return listeners


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise InvalidConfig(f"cannot listen on {host} port {port}: {error.strerror}") from error
    bound, number = listener.getsockname()[:2]
    _log.info("listening on http://%s:%d", f"[{bound}]" if ":" in bound else bound, number)
    return listener


async def _serve(boot: Boot, settings: Settings, listeners: list[socket.socket]) -> str | None:
    """Serve to the end; what failed, if that was the end."""
    from handler.frontend import Frontend

    frontend = Frontend(boot, settings)
    try:
        return await _serve_until_the_end(boot, frontend, listeners)
    finally:
        await asyncio.to_thread(frontend.recorder.close, LAST_WORDS_S)


async def _serve_until_the_end(boot: Boot, frontend: Frontend, listeners: list[socket.socket]) -> str | None:
    server = _make_server(boot, frontend)
    serving = asyncio.create_task(server.serve(sockets=listeners))
    failing = asyncio.create_task(_failure(boot))
    await asyncio.wait((serving, failing), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        failing.cancel()
        return None
    server.should_exit = True
    await serving
    return failing.result()


def _make_server(boot: Boot, frontend: Frontend) -> GracefulServer:
    from handler.app import make_app
    from handler.connection import Bounds
    from handler.graceful import GracefulServer

    settings = frontend.settings
    bounds = Bounds(settings.receive_timeout, settings.slow_reader, int(settings.max_unread), int(settings.max_body))
    return GracefulServer(
        make_app(frontend), _BACKLOG, settings.grace, settings.keep_alive, bounds, on_exit=frontend.recorder.drain,
        cut=boot.cut, on_slow_reader=frontend.admission.slow_reader_cut,
    )


async def _failure(boot: Boot) -> str:
    """Wait for what must end the process: a boot that fails, or later the engine's death."""
    try:
        engine = await boot.wait()
    except PilotlightError as error:
        return str(error)
    except Exception as error:
        _log.exception("the boot failed")
        return f"the boot failed: {type(error).__name__}: {error}"
    for line in engine.plan.lines():
        _log.info("%s", line)
    message = await boot.died()
    await asyncio.sleep(FAILURE_NOTICE_S)
    return message

