"""Servers and workers as processes of their own, started as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import httpx

ROOT = Path(__file__).parents[2]
START_S = 60.0
SMALL = {"PILOTLIGHT_KV_MEMORY": "64MiB"}
"""The demo needs little, and many processes share one machine."""

NOTHING: Mapping[str, str] = MappingProxyType({})
LISTENING = re.compile(r"listening on (http://\S+)")

T = TypeVar("T")


def eventually(read: Callable[[], T], seconds: float = START_S) -> T:
    """What `read` gives once it is true, or after the time is up."""
    end = time.monotonic() + seconds
    while not (value := read()) and time.monotonic() < end:
        time.sleep(0.05)
    return value


class Process:
    """A program under test and what it has written."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **SMALL, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder), **environment},
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Send the signal and give the exit status."""
        self.popen.send_signal(how)
        return self.wait()

    def wait(self, seconds: float = START_S) -> int:
        return self.popen.wait(seconds)


class Server(Process):
    """`pilotlight serve` on a port of its own."""

    @property
    def url(self) -> str:
        """Where it listens, once it does."""
        found = eventually(lambda: LISTENING.search(self.output) or self.popen.poll() is not None)
        assert isinstance(found, re.Match), self.output
        address: str = found[1]
        return address

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def await_ready(self) -> None:
        with self.client() as client:
            assert eventually(lambda: client.get("/ping").status_code == 200), self.output

    def statistics(self) -> dict[str, int]:
        with self.client() as client:
            engine: dict[str, int] = client.get("/health").json()["engine"]
            return engine


P = TypeVar("P", bound=Process)


@contextmanager
def running(
    process: type[P], *arguments: str, environment: Mapping[str, str] = NOTHING, files: Mapping[str, str] = NOTHING
) -> Iterator[P]:
    """A process in a folder with these files, gone afterwards, whatever happened."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_text(content)
        started = process(arguments, environment, Path(folder))
        try:
            yield started
        finally:
            started.popen.kill()
            started.popen.wait()


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[Server]:
    """A server; variables are given without their `PILOTLIGHT_`."""
    variables = {f"PILOTLIGHT_{name.upper()}": value for name, value in environment.items()}
    with running(Server, "-m", "pilotlight", "serve", "--port", "0", *arguments, environment=variables) as server:
        yield server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
