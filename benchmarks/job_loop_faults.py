"""Faults of the control plane at full length: how often each job loop asks meanwhile, and which results it loses.

    python -m benchmarks.job_loop_faults --json benchmarks/results/job_loop_faults.json

Each scenario has an endpoint of `handler/local` and a worker of its own. They run side by side: nearly all is waiting.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import describe
from handler.local.faults import Fault, answering, cut, garbage, hanging
from handler.local.job import Asked, Job
from handler.local.parts import EndpointSettings
from handler.local_queue import Status
from tests.handler.job_loops import COUNT, LOOPS, Loop
from tests.handler.processes import SMALL, Process, eventually, running
from tests.local.endpoint import LocalEndpoint

JOBS: Final = 10
AFTERWARDS_S: Final = 120.0
"""How long results are waited for when all is well again. Our own loop's longest pause is 45 s, a poll's is 90 s."""
FOREVER: Final = hanging(10_000)
TAKES: Final = ("job-take", "job-take-batch")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen.

    Attributes:
        jobs: whose results were due during the fault, or after it; `lost` of them never came.
        requests_per_s: to the failing route, during the fault.
        late_s: from the fault's end to the last result.
    """

    jobs: int
    lost: int
    requests_per_s: float
    late_s: float


def main() -> None:
    """Show what both loops make of every fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases = [(name, loop) for name in SCENARIOS for loop in LOOPS]
    with ThreadPoolExecutor(len(cases)) as pool:
        running = [(name, loop, pool.submit(observe, loop, SCENARIOS[name])) for name, loop in cases]
        found = {
            (name, loop): future.result()
            for name, loop, future in track(running, "faults", console=Console(stderr=True))
        }
    table = Table("", *LOOPS)
    for name in SCENARIOS:
        table.add_row(name, *(_cell(found[name, loop]) for loop in LOOPS))
    Console().print(table)
    if options.json:
        scenarios = {name: {loop: asdict(found[name, loop]) for loop in LOOPS} for name in SCENARIOS}
        options.json.write_text(json.dumps(describe() | {"scenarios": scenarios}, indent=2) + "\n")


def observe(loop: Loop, scenario: Callable[[LocalEndpoint], Outcome]) -> Outcome:
    """The scenario with a worker of this loop that has done its first job."""
    endpoint = LocalEndpoint(settings=EndpointSettings())
    with endpoint.listening():
        environment = {**SMALL, **endpoint.environment("pod1"), "PILOTLIGHT_JOB_LOOP": loop}
        with running(Process, "-m", "handler", environment=environment):
            [first] = submit(endpoint, 1)
            assert eventually(lambda: first.is_final, 120)
            return scenario(endpoint)


def done_fails(endpoint: LocalEndpoint, fault: Fault, seconds: float) -> Outcome:
    """Results are not taken for so long."""
    return _meet(endpoint, ("job-done",), fault, seconds)


def take_fails(endpoint: LocalEndpoint, fault: Fault, seconds: float) -> Outcome:
    """Jobs are not handed out for so long; those that wait come after that."""
    endpoint.faults.now = dict.fromkeys(TAKES, fault)
    time.sleep(endpoint_poll_s() + 1)  # Until the poll that is open ends.
    return _meet(endpoint, TAKES, fault, seconds)


def endpoint_poll_s() -> float:
    """How long the endpoint holds a poll."""
    return EndpointSettings().poll_s


def _meet(endpoint: LocalEndpoint, routes: Sequence[str], fault: Fault, seconds: float) -> Outcome:
    endpoint.faults.now = dict.fromkeys(routes, fault)
    began = time.monotonic()
    jobs = submit(endpoint, JOBS)
    time.sleep(seconds)
    endpoint.faults.now = {}
    asked = [at for route in routes for at in endpoint.faults.asked[route] if at >= began]
    over = time.monotonic()
    eventually(lambda: all(job.is_final for job in jobs), AFTERWARDS_S)
    lost = sum(job.status is not Status.COMPLETED for job in jobs)
    return Outcome(len(jobs), lost, round(len(asked) / seconds, 2), round(time.monotonic() - over, 1))


def submit(endpoint: LocalEndpoint, count: int) -> list[Job]:
    """So many jobs, each of which counts to 30."""
    return endpoint.on_loop(lambda: [endpoint.queue.submit(Asked(COUNT)) for _ in range(count)])


SCENARIOS: Final[Mapping[str, Callable[[LocalEndpoint], Outcome]]] = MappingProxyType({
    "done: 500 for 60 s": partial(done_fails, fault=answering(500), seconds=60.0),
    "done: 503 for 60 s": partial(done_fails, fault=answering(503), seconds=60.0),
    "done: no answer for 60 s": partial(done_fails, fault=FOREVER, seconds=60.0),
    "done: taken, the answer cut, for 60 s": partial(done_fails, fault=cut, seconds=60.0),
    "take: 500 for 30 s": partial(take_fails, fault=answering(500), seconds=30.0),
    "take: garbage for 30 s": partial(take_fails, fault=garbage(), seconds=30.0),
    "take: no answer for 90 s": partial(take_fails, fault=FOREVER, seconds=90.0),
})


def _cell(outcome: Outcome) -> str:
    late = "" if outcome.lost else f", all there after {outcome.late_s:g} s more"
    return f"lost {outcome.lost} of {outcome.jobs}, {outcome.requests_per_s:g} requests/s{late}"


if __name__ == "__main__":
    main()
