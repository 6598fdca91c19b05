"""What workers run as, seen from the endpoint: something that starts them, and a handle on each."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.errors import PilotlightError


class CannotStart(PilotlightError):
    """A worker could not be started at all: no program, no image, no memory."""


class Handle(Protocol):
    """A worker that was started. What is asked of one that has ended is no error and does nothing."""

    @property
    def name(self) -> str:
        """What a person finds it by: `pid 4711`, or the container's name."""

    async def terminate(self) -> None:
        """Send SIGTERM."""

    async def kill(self) -> None:
        """End it at once, with everything it has started."""

    async def freeze(self) -> None:
        """Stop its clocks where they are, and those of everything it has started."""

    async def thaw(self) -> None:
        """Let it go on."""

    async def wait(self) -> int:
        """The exit status once it has ended; negative: the signal that ended it."""


class Runtime(Protocol):
    """Starts workers."""

    async def start(self, worker_id: str, environment: Mapping[str, str], log: Path) -> Handle:
        """Start one that writes its output to `log`.

        Raises:
            CannotStart: one line that says why.
        """

    async def sweep(self) -> int:
        """End what workers an endpoint that was killed has left behind, and give how many; before the first start."""


def open_log(log: Path) -> BinaryIO:
    """Where a worker is to write, its folder made; raises OSError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")


def describe(status: int) -> str:
    """How a process has ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
