"""`pilotlight up` under fire: many clients, while its workers are killed and drained; what each job loop loses.

    python -m benchmarks.local_load --json benchmarks/results/local_load.json

Workers that are up are ended at random: by SIGKILL, and by SIGTERM, which lets them finish what they have. What came of
each job is read in the endpoint's own file and held against what its client was told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.local_clients import Asked, Clients
from benchmarks.local_up import Up, endings, running_up
from benchmarks.machine import describe
from handler.local.queue import MOST_ATTEMPTS

_ENDS = re.compile(r"worker \S+ (was ended by \w+|ended with status \d+); (\d+) jobs were with it")


def main() -> None:
    """Fire at both loops and print what was lost."""
    options = _options()
    results: dict[str, dict[str, Any]] = {}
    for loop in options.loops:
        with tempfile.TemporaryDirectory() as folder:
            results[loop] = fire_at(loop, Path(folder), options)
        Console(stderr=True).print(results[loop])
        if options.json:
            _record(results, options)
    Console().print(_table(results))
    if any(found["not_ended_once"] or found["told_otherwise"] for found in results.values()):
        sys.exit("a job has not come to exactly one end")


def _record(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    asked = {"jobs": options.jobs, "clients": options.clients, "attempts": options.attempts}
    options.json.write_text(json.dumps(describe() | asked | {"loops": results}, indent=2) + "\n")


def fire_at(loop: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All jobs, with workers of this loop."""
    workers = str(options.workers)
    arguments = (
        "--job-loop", loop, "--no-rate-limits", "--workers-min", workers, "--workers-max", workers,
        "--attempts", str(options.attempts),
    )
    with running_up(folder, *arguments, environment={"PILOTLIGHT_THREADS": "1"}) as up:
        up.await_ready(options.workers)
        began = time.monotonic()
        with _showing(loop, options.jobs) as progress, firing(up, options) as fire:
            clients = Clients(up.url, iter(range(options.jobs)), progress)
            asyncio.run(clients.ask_all(options.clients))
        seconds = time.monotonic() - began
        health = up.health()["jobs"]
        status = up.stop()
        if options.keep:
            options.keep.mkdir(exist_ok=True)
            (options.keep / f"{loop}.log").write_bytes(up.log.read_bytes())
    return _found(up.state, clients) | {
        "seconds": round(seconds, 1), "jobs_per_s": round(options.jobs / seconds, 1),
        "killed": fire.count[signal.SIGKILL], "drained": fire.count[signal.SIGTERM],
        "handed_out_again": health["retried"], "exit_status": status, **_left_behind(up.log.read_text()),
    }


@dataclass(slots=True)
class Fire:
    """Ends workers, till it is told to stop."""

    up: Up
    stopped: Event = field(default_factory=Event)
    count: Counter[signal.Signals] = field(default_factory=Counter)
    spent: set[int] = field(default_factory=set)

    def shoot(self, signum: signal.Signals, every_s: float) -> None:
        """Send this to a worker that is up, again and again."""
        due = time.monotonic() + every_s
        while not self.stopped.wait(max(0.0, due - time.monotonic())):
            due += every_s
            targets = [pid for pid in self.up.at_work() if pid not in self.spent]
            if targets:
                self._hit(random.choice(targets), signum)

    def _hit(self, pid: int, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
            self.spent.add(pid)
            self.count[signum] += 1


@contextmanager
def firing(up: Up, options: argparse.Namespace) -> Iterator[Fire]:
    """Meanwhile workers are killed and drained."""
    fire = Fire(up)
    every = ((signal.SIGKILL, options.kill_every), (signal.SIGTERM, options.drain_every))
    threads = [Thread(target=fire.shoot, args=(signum, seconds)) for signum, seconds in every if seconds]
    for thread in threads:
        thread.start()
    try:
        yield fire
    finally:
        fire.stopped.set()
        for thread in threads:
            thread.join()


def _found(state: Path, clients: Clients) -> dict[str, Any]:
    ends, retried = endings(state)
    final = {job: found[-1] for job, found in ends.items() if found}
    lost = [job for job, end in final.items() if end["status"] in ("FAILED", "TIMED_OUT")]
    return {
        "submitted": len(ends), "not_ended_once": sum(len(found) != 1 + retried[job] for job, found in ends.items()),
        "ended": dict(Counter(str(end["status"]) for end in final.values())), "lost": len(lost),
        "lost_because": dict(Counter(str(final[job]["error"])[:80] for job in lost)),
        "attempts": {str(n): count for n, count in sorted(Counter(end["attempts"] for end in final.values()).items())},
        "wrong": sum(_is_wrong(asked) for asked in clients.seen),
        "told_otherwise": sum(asked.status != final[asked.job]["status"] for asked in clients.seen),
        "ways": dict(Counter(asked.way for asked in clients.seen)), "refused": dict(Counter(clients.refused)),
    }


def _left_behind(log: str) -> dict[str, int]:
    """How many jobs were with workers as they ended, by what the endpoint has logged."""
    ends = _ENDS.findall(log)
    return {
        "left_by_killed": sum(int(jobs) for how, jobs in ends if "SIGKILL" in how),
        "left_by_drained": sum(int(jobs) for how, jobs in ends if "status 0" in how),
    }


def _is_wrong(asked: Asked) -> bool:
    """Whether a job that is COMPLETED has another answer than it should, or its stream does not end with it."""
    if asked.status != "COMPLETED":
        return False
    assert asked.answer is not None
    is_right = asked.answer.startswith(asked.awaited) if asked.is_long else asked.answer == asked.awaited
    return not is_right or (asked.way == "stream" and not asked.streamed.endswith(asked.answer))


@contextmanager
def _showing(loop: str, jobs: int) -> Iterator[Any]:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"jobs over {loop}", total=jobs)
        yield lambda: progress.advance(task)


def _table(results: dict[str, dict[str, Any]]) -> Table:
    table = Table("", *results)
    rows: Sequence[str] = (
        "submitted", "not_ended_once", "ended", "lost", "lost_because", "attempts", "wrong", "handed_out_again",
        "killed", "left_by_killed", "drained", "left_by_drained", "seconds", "jobs_per_s",
    )
    for name in rows:
        table.add_row(name.replace("_", " "), *(str(found[name]) for found in results.values()))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loops", nargs="*", default=["native", "sdk"])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--attempts", type=int, default=MOST_ATTEMPTS, help="of the endpoint")
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--drain-every", type=float, default=7.0, metavar="SECONDS")
    parser.add_argument("--keep", type=Path, help="folder for the endpoint's logs")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
