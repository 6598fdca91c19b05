"""The bill of a local endpoint against the ledger that its workers keep themselves, life by life.

    python -m benchmarks.local_bill --lives 50 --json benchmarks/results/local_bill.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

AT_ONCE = 3
JOB = {"input": {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}}


def main() -> None:
    """Live so many lives, and print by how much the two differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state")
        live(state, options.lives)
        result = compare(billed(state), recorded(state))
    print(json.dumps(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if result["most_apart_s"] > 1:
        sys.exit("a life's bill and ledger are more than a second apart")


def live(state: Path, lives: int) -> None:
    """Have workers come up, do a job and go, until there were so many."""
    command = [sys.executable, "-m", "pilotlight", "up", "--port", "8765", "--state", str(state), "--idle-timeout", "1"]
    with subprocess.Popen(command) as process, httpx.Client(base_url="http://127.0.0.1:8765", timeout=60) as client:
        wait_until(lambda: answers(client))
        while count(state) < lives:
            scale(client, AT_ONCE)
            wait_until(lambda: workers(client)["ready"] == AT_ONCE)
            client.post("/v2/local/runsync", json=JOB).raise_for_status()
            ended = count(state)
            scale(client, 0)
            wait_until(lambda: count(state) == ended + AT_ONCE)  # noqa: B023 (called here alone)
        process.terminate()


def scale(client: httpx.Client, least: int) -> None:
    """Have so many workers, work or no work."""
    client.patch("/v2/serverless/local", json={"workers": {"min": least, "max": AT_ONCE}}).raise_for_status()


def workers(client: httpx.Client) -> dict[str, int]:
    """How many are in each state."""
    counts: dict[str, int] = client.get("/health").json()["workers"]
    return counts


def answers(client: httpx.Client) -> bool:
    """Whether the endpoint is up."""
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def wait_until(read: Callable[[], bool]) -> None:
    """Ask again and again, until it is so."""
    while not read():
        time.sleep(0.2)


def count(state: Path) -> int:
    """Lives that have ended."""
    return len(billed(state))


def billed(state: Path) -> dict[str, int]:
    """Seconds of each worker by the endpoint's bill."""
    path = state / "bill.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {line["worker"]: line["seconds"] for line in lines if line["event"] == "stop"}


def recorded(state: Path) -> dict[str, float]:
    """Seconds of each worker by its own ledger."""
    command = ["pilotlight", "bill", "report", "--json", "--by", "worker", "--from", str(state / "ledger")]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return {group["worker"]: float(group["seconds"]["total"]) for group in report["groups"]}


def compare(bill: dict[str, int], ledger: dict[str, float]) -> dict[str, Any]:
    """How far apart they are, over all lives."""
    apart = [bill[worker] - ledger.get(worker, 0.0) for worker in bill]
    return {
        "lives": len(bill), "missing": len(bill.keys() - ledger.keys()), "billed_s": sum(bill.values()),
        "recorded_s": sum(ledger.values()), "equal": sum(value == 0 for value in apart),
        "most_apart_s": max(map(abs, apart), default=0),
    }


if __name__ == "__main__":
    main()
