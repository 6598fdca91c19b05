"""The bill of a local endpoint against the ledger that its workers keep themselves, life by life.

    python -m benchmarks.local_bill --lives 50 --killed 20 --json benchmarks/results/local_bill.json

Lives that are ended as they should be, and lives ended by SIGKILL, whose journals are then brought to the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.local_up import Up, bill, running_up, wait_until
from benchmarks.machine import describe

AT_ONCE = 3
JOB = {"input": {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}}
APART_S = 1
OPEN_INTERVAL_S = 10.0
"""The workers' own (docs/billing.md), and what a life that was killed may lack besides the second of rounding."""
Advance = Callable[[], object]


def main() -> None:
    """Live so many lives, and print by how much the two differ."""
    options = _options()
    result: dict[str, Any] = describe()
    with Progress(console=Console(stderr=True)) as progress:
        for name, live, lives in (("ended", end_lives, options.lives), ("killed", kill_lives, options.killed)):
            task = progress.add_task(f"lives, {name}", total=lives)
            with tempfile.TemporaryDirectory() as folder:
                result[name] = compare(*observe(Path(folder), live, lives, lambda: progress.advance(task)))  # noqa: B023
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if result["ended"]["most_apart_s"] > APART_S:
        sys.exit("a life's bill and ledger are more than a second apart")
    if result["killed"]["most_apart_s"] > OPEN_INTERVAL_S + APART_S:
        sys.exit("a life that was killed lacks more than the open interval")


def observe(
    folder: Path, live: Callable[[Up, int, Advance], None], lives: int, advance: Advance
) -> tuple[dict[str, int], dict[str, float]]:
    """Seconds of each worker by the endpoint's bill, and by its own ledger."""
    with running_up(folder, "--idle-timeout", "1") as up:
        live(up, lives, advance)
        up.stop()
    journal, ledger = up.state / "journal", up.state / "ledger"
    if journal.is_dir():
        pilotlight("bill", "recover", str(journal), "--to", f"file://{ledger}", "--older-than", "0")
    return bill(up.state), recorded(ledger)


def end_lives(up: Up, lives: int, advance: Advance) -> None:
    """Workers come up, do a job and go."""
    for ended in range(0, lives, AT_ONCE):
        up.scale(AT_ONCE, AT_ONCE)
        up.await_ready(AT_ONCE)
        up.post("/runsync", JOB)
        up.scale(0, AT_ONCE)
        wait_until(lambda: len(bill(up.state)) >= ended + AT_ONCE)  # noqa: B023
        for _ in range(AT_ONCE):
            advance()


def kill_lives(up: Up, lives: int, advance: Advance) -> None:
    """Workers come up, do jobs for some seconds, and are killed in the middle of one, perhaps."""
    draw = random.Random(1)
    up.scale(AT_ONCE, AT_ONCE)
    for _ in range(lives):
        up.await_ready(AT_ONCE)
        end = time.monotonic() + draw.uniform(0, 6)
        while time.monotonic() < end:
            up.post("/runsync", JOB)
        pid, worker = draw.choice(list(up.processes().items()))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: worker in bill(up.state))  # noqa: B023
        advance()


def recorded(ledger: Path) -> dict[str, float]:
    """Seconds of each worker by its own ledger."""
    report = pilotlight("bill", "report", "--json", "--by", "worker", "--from", str(ledger))
    return {group["worker"]: float(group["seconds"]["total"]) for group in json.loads(report)["groups"]}


def pilotlight(*arguments: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "pilotlight", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def compare(billed: dict[str, int], ledger: dict[str, float]) -> dict[str, Any]:
    """How far apart they are, over all lives."""
    apart = [billed[worker] - ledger.get(worker, 0.0) for worker in billed]
    return {
        "lives": len(billed), "missing": len(billed.keys() - ledger.keys()), "billed_s": sum(billed.values()),
        "recorded_s": sum(ledger.values()), "equal": sum(value == 0 for value in apart),
        "within_a_second": sum(abs(value) <= APART_S for value in apart),
        "most_apart_s": max(map(abs, apart), default=0),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=50)
    parser.add_argument("--killed", type=int, default=20)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
