"""`pilotlight up` as a process, and what can be seen of it from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import runpod

from tests.handler.processes import ROOT, Server, eventually, running

MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
COUNT = {"messages": MESSAGES, "sampling_params": {"temperature": 0}}
COUNTED = "3 4 5 6 7"


class Up(Server):
    """The command, with a state folder below its own."""

    def __init__(self, arguments: Any, environment: Any, folder: Path) -> None:
        super().__init__(arguments, environment, folder)
        self.state = folder / "pilotlight" / "local"

    def get(self, path: str) -> Any:
        with self.client() as client:
            return client.get(path).json()

    def post(self, path: str, body: Any = None) -> Any:
        with self.client() as client:
            return client.post(path, json=body).json()

    def workers(self) -> dict[str, int]:
        """How many in each state, by `/health`."""
        counts: dict[str, int] = self.get("/health")["workers"]
        return counts

    def await_workers(self, **counts: int) -> None:
        assert eventually(lambda: counts.items() <= self.workers().items()), f"{self.workers()}\n{self.output}"

    def endpoint(self) -> runpod.Endpoint:
        runpod.endpoint_url_base = f"{self.url}/v2"
        return runpod.Endpoint("local", api_key="none")

    def pids(self) -> list[int]:
        """Every process that it has started, and those that those have started."""
        return descendants(self.popen.pid)

    def keep_idle(self, seconds: int) -> None:
        """How long a worker without work stays, from now on."""
        with self.client() as client:
            workers = {"workers": {"idleTimeout": seconds}}
            assert client.patch("/v2/serverless/local", json=workers).is_success

    def bill(self) -> list[dict[str, Any]]:
        """The charges, as they are written."""
        lines = [json.loads(line) for line in (self.state / "bill.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == "stop"]

    def ledger(self) -> Any:
        """What the workers' own books say, as `pilotlight bill report` does."""
        command = [sys.executable, "-m", "pilotlight", "bill", "report", "--json", "--from", str(self.state / "ledger")]
        return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    def ledger_s(self) -> float:
        """Billed seconds by the workers' own books."""
        return float(self.ledger()["seconds"]["total"])


@contextmanager
def up(*arguments: str, **environment: str) -> Iterator[Up]:
    command = ("-m", "pilotlight", "up", "--port", "0", *arguments)
    with running(Up, *command, environment={"RUNPOD_LOG_LEVEL": "INFO", **environment}) as started:
        yield started


def descendants(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in read_if_there(task).split()]
    return [*children, *(later for child in children for later in descendants(child))]


def read_if_there(path: Path) -> str:
    """Of a process that has ended there is nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it until its parent looks."""
    stat = read_if_there(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rpartition(")")[2].split()[0] != "Z"


def answer(view: dict[str, Any]) -> str:
    """The text of a job that has generated."""
    text: str = view["output"][0]["choices"][0]["tokens"][0]
    return text
