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
from contextlib import contextmanager, suppress
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
LISTENS = "0A"
"""The state in /proc/net/tcp."""

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
def serving(*arguments: str, more: Mapping[str, str] = NOTHING, **environment: str) -> Iterator[Server]:
    """A server; variables are given without their `PILOTLIGHT_`, those in `more` as they are."""
    variables = {f"PILOTLIGHT_{name.upper()}": value for name, value in environment.items()}
    command = ("-m", "pilotlight", "serve", "--port", "0", *arguments)
    with running(Server, *command, environment={**variables, **more}) as server:
        yield server


def port_of(process: int) -> int | None:
    """Where a process listens, by what the kernel tells of its sockets; None while it does not."""
    with suppress(OSError):
        held = {str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == LISTENS and f"socket:[{rest[5]}]" in held:
                return int(address.rpartition(":")[2], 16)
    return None


def free_port() -> int:
    """A port for somebody who is told its number.

    An ended connection keeps it from whoever takes any port, for a minute.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()
        port: int = server.getsockname()[1]
        return port


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody else can meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
