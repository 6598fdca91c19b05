"""`pilotlight up` for a benchmark: the process, its workers' processes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from handler.local.app import JOBS_FILE
from handler.local.write_ahead import read

NOTHING: Mapping[str, str] = MappingProxyType({})
SMALL = {"PILOTLIGHT_KV_MEMORY": "64MiB"}
"""The demo needs little, and several workers share the machine."""
START_S = 60.0
_LISTENING = re.compile(r"listening on (http://\S+)")


class Up:
    """A running endpoint.

    Attributes:
        state: its folder; `log` beside it is what it has written.
        url: where it listens.
    """

    def __init__(self, process: subprocess.Popen[bytes], state: Path, log: Path) -> None:
        self.process = process
        self.state = state
        self.log = log
        self.url = self._address()
        # A connection that rests for 5 s is closed by the server, perhaps as the next request is on its way.
        self._http = httpx.Client(base_url=self.url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))

    def health(self) -> dict[str, Any]:
        """Counts of jobs and workers."""
        found: dict[str, Any] = self._http.get("/health").json()
        return found

    def post(self, path: str, body: object) -> Any:
        """The answer to a call of the client API."""
        return self._http.post(f"/v2/local{path}", json=body).raise_for_status().json()

    def scale(self, least: int, most: int) -> None:
        """Have so many workers."""
        self._http.patch("/v2/serverless/local", json={"workers": {"min": least, "max": most}}).raise_for_status()

    def at_work(self) -> list[int]:
        """Processes of the workers that are up; none when the management API is asked more than once a second."""
        answer = self._http.get("/v2/serverless/local/workers")
        listed = answer.json()["workers"] if answer.is_success else []
        ready = {worker["id"] for worker in listed if worker["status"] in ("RUNNING", "IDLE")}
        return [pid for pid, worker in self.processes().items() if worker in ready]

    def processes(self) -> dict[int, str]:
        """The workers' processes, and whose each is."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
        return {pid: worker for pid in children if (worker := _worker_of(pid))}

    def stop(self) -> int:
        """Its exit status."""
        self._http.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def await_ready(self, count: int) -> None:
        """Wait until so many workers are up."""
        wait_until(lambda: self.health()["workers"]["ready"] >= count)

    def _address(self) -> str:
        wait_until(lambda: _LISTENING.search(self.log.read_text()) or self.process.poll() is not None)
        found = _LISTENING.search(self.log.read_text())
        if found is None:
            sys.exit(f"the endpoint has not come up:\n{self.log.read_text()}")
        return found[1]


@contextmanager
def running_up(folder: Path, *arguments: str, environment: Mapping[str, str] = NOTHING) -> Iterator[Up]:
    """An endpoint with its state in the folder; killed if the benchmark fails."""
    state, log = folder / "state", folder / "log"
    command = [sys.executable, "-m", "pilotlight", "up", "--port", "0", "--state", str(state), *arguments]
    with log.open("wb") as output, subprocess.Popen(
        command, stdout=output, stderr=output, env={**os.environ, **SMALL, **environment}
    ) as process:
        try:
            yield Up(process, state, log)
        finally:
            if process.poll() is None:
                process.kill()


def wait_until(read: Callable[[], object], seconds: float = START_S, pause_s: float = 0.1) -> None:
    """Ask again and again, until it is so.

    Raises:
        TimeoutError: it has not become so.
    """
    end = time.monotonic() + seconds
    while not read():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds:g} s")
        time.sleep(pause_s)


def endings(state: Path) -> tuple[dict[str, list[dict[str, Any]]], Counter[str]]:
    """Of each job that was submitted its ends as they were written down, and how often each was retried by request."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    retries: Counter[str] = Counter()
    for entry in read(state / JOBS_FILE):
        if entry["kind"] == "submission":
            found[entry["job"]] = []
        elif entry["kind"] == "ending":
            found[entry["job"]].append(dict(entry))
        elif entry["kind"] == "retry":
            retries[entry["job"]] += 1
    return dict(found), retries


def bill(state: Path) -> dict[str, int]:
    """Seconds of each worker by the endpoint's bill."""
    path = state / "bill.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    seconds: Counter[str] = Counter()
    for line in lines:
        if line["event"] == "stop":
            seconds[line["worker"]] += line["seconds"]
    return dict(seconds)


def _worker_of(pid: int) -> str | None:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    named = dict(variable.partition(b"=")[::2] for variable in variables)
    return named.get(b"RUNPOD_POD_ID", b"").decode() or None
