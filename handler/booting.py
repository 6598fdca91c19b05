"""An engine on its way to serving: begun in threads first of all, watched by whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineDead, PilotlightError
from engine.start import Start

if TYPE_CHECKING:
    from engine.config import EngineConfig
    from engine.engine import Engine


LAST_WORDS_S: Final = 3.0
"""How long the end of the process waits for the books to reach the ledger. The journal holds them either way."""

_log = logging.getLogger("pilotlight.boot")


class NotReady(PilotlightError):
    """The engine is still booting."""


def take_over_process() -> None:
    """Make what the process inherited fit for a server; first of all, before a file or a socket is opened."""
    _fill_standard_streams()
    _allow_open_files()
    exit_on_signals(lambda: None)


def _fill_standard_streams() -> None:
    """Where standard streams are closed, a socket would take their numbers and get what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _allow_open_files() -> None:
    """As many as the system lets this process have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def exit_on_signals(before: Callable[[], object]) -> None:
    """Let SIGTERM and Ctrl-C end the process at once, until a server's or a worker's own loop handles them.

    No request is lost before the first one. Without a handler Python would ignore SIGTERM as a container's first
    process, and would answer Ctrl-C with a traceback out of whatever is being imported.

    Args:
        before: called first, on a thread of its own: whatever the signal interrupted may hold locks.
    """

    def leave(signum: int, frame: object) -> None:
        last = Thread(target=before, daemon=True)
        last.start()
        last.join(LAST_WORDS_S)
        os._exit(0)

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, leave)


class Boot:
    """Boots an engine: reading weights and importing torch begin at once, the rest when the configuration is known.

    So the caller imports what reads settings and serves beside what takes longest.

    Args:
        model: what the configuration will name; None where only the environment does.

    Attributes:
        timeline: where the seconds went, from the start of the process.
        ready_s: when the engine could generate, in seconds from the start of the process; None before.
        failure: resolved with one line when the engine has died of a device error.
    """

    def __init__(self, model: str | None = None) -> None:
        self._start = Start(model or os.environ.get("PILOTLIGHT_MODEL") or os.environ.get("MODEL_NAME") or "demo")
        self.timeline = self._start.timeline
        self.ready_s: float | None = None
        self.failure: Future[str] = Future()
        self._engine: Future[Engine] = Future()

    def as_dict(self) -> dict[str, Any]:
        """How the start went, ready for JSON; seconds since the process started."""
        return {"ready_s": self.ready_s, "spans": self.timeline.as_dicts()}

    def on_ready(self, listener: Callable[[Engine], object]) -> None:
        """Have `listener` called with the engine once it can generate, on the thread that booted it."""

        def tell(engine: Future[Engine]) -> None:
            if engine.exception() is None:
                listener(engine.result())

        self._engine.add_done_callback(tell)

    def begin(self, config: EngineConfig) -> None:
        """Boot this. Call it once, with pydantic imported: two threads must not import it at the same time."""
        Thread(target=self._run, args=(config,), name="boot", daemon=True).start()

    @property
    def engine(self) -> Engine:
        """The engine, once it can generate.

        Raises:
            NotReady: it is still booting.
            EngineDead: it has died, or never came up.
        """
        if not self._engine.done():
            raise NotReady("the model is still loading")
        if self.failure.done():
            raise EngineDead(self.failure.result())
        error = self._engine.exception()
        if error is not None:
            raise EngineDead(f"the engine did not start: {error}") from error
        return self._engine.result()

    async def wait(self) -> Engine:
        """The engine, waiting until it can generate.

        Raises:
            PilotlightError: why it cannot be booted.
        """
        return await asyncio.shield(asyncio.wrap_future(self._engine))

    async def died(self) -> str:
        """One line on why the engine has died; waits until it has."""
        return await asyncio.shield(asyncio.wrap_future(self.failure))

    def join(self) -> Engine:
        """`wait` for callers without an event loop."""
        return self._engine.result()

    def cut(self) -> None:
        """End every request at once, each with an error; none is taken any more. Does not wait for it."""
        with contextlib.suppress(PilotlightError):
            engine, statistics = self.engine, self.engine.statistics()
            _log.warning("%d requests are cut short", statistics.running + statistics.waiting)
            Thread(target=engine.stop, name="cut", daemon=True).start()

    def end(self, status: int) -> int:
        """Stop the engine and give back the exit status.

        While the boot is at work the process ends here: the interpreter could not end the threads cleanly.
        """
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError):  # Closed from the start, or a full disk.
                stream.flush()
        if self._start.importing or not self._engine.done():
            os._exit(status)
        with contextlib.suppress(PilotlightError):
            self.engine.stop()
        return status

    def _run(self, config: EngineConfig) -> None:
        try:
            from engine.boot import boot

            engine = boot(config, self._start)
            engine.start(self.failure.set_result)
        except BaseException as error:
            self._engine.set_exception(error)
        else:
            self.ready_s = self.timeline.now()
            # First of all, so that whoever sees the worker at work finds the line in its log.
            _log.info("ready after %.2f s: %s", self.ready_s, self.timeline.line())
            self._engine.set_result(engine)
