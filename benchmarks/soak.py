"""A long steady load: whether the process that bears it grows, and whether it has everything back at the end.

    python -m benchmarks.soak serve --json benchmarks/results/soak.json --plot docs/figures/soak.svg
    python -m benchmarks.soak serve --no-jobs --minutes 4 --warm-up 60 --json benchmarks/results/soak_no_jobs.json
    python -m benchmarks.soak worker --minutes 4 --json benchmarks/results/soak_worker.json

`serve` is `pilotlight serve demo` under clients without a pause, of whom some hang up; `worker` is a queue worker of
`pilotlight up` over our own loop.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

from benchmarks.local_clients import Clients
from benchmarks.local_up import SMALL, running_up, wait_until
from benchmarks.machine import describe
from benchmarks.process_memory import Sample, Sampler, as_dicts, growth, look

PORT = 8767
WINDOW_S = 60.0
REST_S = 15.0
"""After the load, until what is held is looked at: connections close after 5 s of silence."""
MOST_GROWTH = 0.02
Load = Callable[[float], dict[str, Any]]


def main() -> None:
    """Load it, and say what has grown."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        result = (_serve if options.what == "serve" else _worker)(Path(folder), options)
    samples: list[Sample] = result.pop("samples")
    Console().print(result)
    if options.plot:
        plot(options.plot, samples, options)
    if options.json:
        record = describe() | {"what": options.what, "clients": options.clients, **result, "samples": as_dicts(samples)}
        options.json.write_text(json.dumps(record) + "\n")
    if problems := list(_problems(result)):
        sys.exit("; ".join(problems))


def _problems(result: dict[str, Any]) -> Iterator[str]:
    if (grown := result["memory"]["rss"]["growth"]) > MOST_GROWTH:
        yield f"memory has grown by {grown:.1%}"
    for name in ("files", "threads"):
        if result["at_rest"][name] > result["before"][name]:
            yield f"{name}: {result['before'][name]} before, {result['at_rest'][name]} after"
    if result["at_rest"].get("pages_used"):
        yield f"{result['at_rest']['pages_used']} pages are in use at rest"
    if result["wrong"]:
        yield f"wrong answers: {result['wrong']}"


def _serve(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.soak_clients import SoakClients

    command = [sys.executable, "-m", "pilotlight", "serve", "demo", "--port", str(PORT)]
    url = f"http://127.0.0.1:{PORT}"
    environment = {**os.environ, **SMALL, "XDG_STATE_HOME": str(folder)}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log, env=environment) as process:

        def load(seconds: float) -> dict[str, Any]:
            clients = SoakClients(url, time.monotonic() + seconds, jobs=not options.no_jobs)
            asyncio.run(clients.ask(options.clients))
            return {"done": dict(clients.done), "wrong": dict(+clients.wrong)}

        try:
            wait_until(lambda: _answers(url))
            result = soak(process.pid, load, options)
            result["at_rest"]["pages_used"] = httpx.get(f"{url}/health").json()["engine"]["pages_used"]
            return result
        finally:
            process.terminate()


def _worker(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    arguments = ("--job-loop", "native", "--no-rate-limits", "--workers-min", "1", "--workers-max", "1")
    with running_up(folder, *arguments) as up:
        up.await_ready(1)
        [pid] = up.processes()

        def load(seconds: float) -> dict[str, Any]:
            end = time.monotonic() + seconds
            numbers = itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())
            clients = Clients(up.url, numbers)
            asyncio.run(clients.ask_all(options.clients))
            states = Counter(asked.status for asked in clients.seen)
            wrong = {name: states[name] for name in ("FAILED", "TIMED_OUT") if states[name]}
            return {"done": dict(states), "wrong": wrong | dict(Counter(clients.refused))}

        result = soak(pid, load, options)
        up.stop()
    return result


def soak(pid: int, load: Load, options: argparse.Namespace) -> dict[str, Any]:
    """The process under the load: before, meanwhile, and when all have gone."""
    load(10)  # What is made once is made.
    time.sleep(REST_S)
    before = look(pid, time.monotonic())
    seconds = 60 * options.minutes
    with _showing(seconds) as show, Sampler(pid, on_sample=show) as sampler:
        found = load(seconds)
    time.sleep(REST_S)
    rest = look(pid, time.monotonic())
    return found | {
        "seconds": seconds, "requests_per_s": round(sum(found["done"].values()) / seconds, 1),
        "memory": growth(sampler.samples, options.warm_up, min(WINDOW_S, seconds / 4)),
        "before": {"files": before.files, "threads": before.threads, "rss": before.rss},
        "at_rest": {"files": rest.files, "threads": rest.threads, "rss": rest.rss}, "samples": sampler.samples,
    }


def plot(file: Path, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    """Memory and files over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot(
        title=f"{options.what}, {options.clients} clients without a pause", xlabel="minutes", ylabel="MiB"
    )
    minutes = [one.at_s / 60 for one in samples]
    axes.plot(minutes, [one.rss / 2**20 for one in samples], label="resident memory")
    axes.plot(minutes, [one.anonymous / 2**20 for one in samples], label="of which no file backs")
    axes.set_ylim(bottom=0)
    axes.axvline(options.warm_up / 60, color="grey", linestyle="--", label="end of the warm-up")
    axes.legend()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


@contextmanager
def _showing(seconds: float) -> Iterator[Callable[[Sample], object]]:
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("soaking", total=seconds)

        def show(sample: Sample) -> None:
            said = f"{sample.rss / 2**20:.1f} MiB, {sample.files} files, {sample.threads} threads"
            progress.update(task, completed=sample.at_s, description=said)

        yield show


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ping").status_code == 200
    except httpx.TransportError:
        return False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["serve", "worker"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=120.0, metavar="SECONDS")
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--no-jobs", action="store_true", help="serve: no request is a job, whose result would be kept")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
