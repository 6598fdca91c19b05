"""Workers as processes of this machine, each in a group of its own, none of which outlives the endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from handler.local.runtime import CannotStart, open_log

WORKER: Final = (sys.executable, "-m", "handler")
"""The container's own entry."""

NOT_INHERITED: Final = frozenset({
    "PORT", "PORT_HEALTH", "PILOTLIGHT_PORT", "PILOTLIGHT_HEALTH_PORT", "RUNPOD_REALTIME_PORT",
})
"""Variables of the user's that would make something else of a worker (handler/mode.py)."""

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2)."""

_LIBC: Final = ctypes.CDLL(None)
"""Loaded before any fork: a child of a process with threads must not import."""


class ProcessHandle:
    """A worker's process and its group."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def name(self) -> str:
        return f"pid {self._process.pid}"

    async def terminate(self) -> None:
        """To the worker alone: its children end with it, or are killed by `kill`."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        """To the group, which may outlive its first process."""
        self._signal_group(signal.SIGKILL)

    async def freeze(self) -> None:
        self._signal_group(signal.SIGSTOP)

    async def thaw(self) -> None:
        self._signal_group(signal.SIGCONT)

    async def wait(self) -> int:
        status = await self._process.wait()
        self._signal_group(signal.SIGKILL)
        return status

    def _signal_group(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signum)


class Processes:
    """Starts `python -m handler`, or another program that speaks the same protocol."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self._command = tuple(command)

    async def start(self, worker_id: str, environment: Mapping[str, str], log: Path) -> ProcessHandle:
        """Start one in the log's folder; the kernel ends it if this process ends, however that happens."""
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        try:
            return ProcessHandle(await self._spawn({**inherited, **environment}, log))
        except OSError as error:
            raise CannotStart(f"a worker cannot be started: {self._command[0]}: {error.strerror}") from None

    async def sweep(self) -> int:
        """Nothing: they ended with the endpoint."""
        return 0

    async def _spawn(self, environment: Mapping[str, str], log: Path) -> asyncio.subprocess.Process:
        with open_log(log) as output:
            return await asyncio.create_subprocess_exec(
                *self._command, env=environment, cwd=log.parent, stdin=asyncio.subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, preexec_fn=ending_with_parent(signal.SIGKILL),
            )


def ending_with_parent(signum: signal.Signals) -> Callable[[], None]:
    """What a child does before its program: have the kernel send it `signum` when the thread that starts it ends."""
    parent = os.getpid()

    def attach() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:  # It has ended between the fork and here.
            os._exit(1)

    return attach
