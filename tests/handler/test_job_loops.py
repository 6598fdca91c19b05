"""What RunPod's SDK and our own loop do in the same situations; where they differ, both are stated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.handler import job_loops
from tests.handler.brake import Brake
from tests.handler.control_plane import ControlPlane, Fault
from tests.handler.job_loops import LOOPS, MANY, TAKE_FAULTS, Found, Loop, worker
from tests.handler.processes import START_S, Process

HELD_S: Mapping[Loop, float] = {"sdk": 4.0, "native": 600.0}
"""How long polls are held while a worker ends: the SDK waits for them, our own loop does not."""


class Lasting(NamedTuple):
    """A worker that all these tests share."""

    loop: Loop
    plane: ControlPlane
    brake: Brake


class Ending(NamedTuple):
    """A worker for one test."""

    loop: Loop
    plane: ControlPlane
    process: Process
    brake: Brake


@pytest.fixture(scope="module", params=LOOPS)
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    brake = Brake(tmp_path_factory.mktemp("brake"))
    with ControlPlane().listening() as plane, worker(plane, request.param, **brake.environment):
        yield Lasting(request.param, plane, brake)
    assert plane.faults == []


@pytest.fixture(params=LOOPS)
def ending(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ending]:
    brake, loop = Brake(tmp_path), request.param
    plane = ControlPlane(poll_s=HELD_S[loop])
    with plane.listening(), worker(plane, loop, **brake.environment) as process:
        yield Ending(loop, plane, process, brake)


def test_twenty_jobs_at_once_end_once_each_and_right(lasting: Lasting) -> None:
    found = job_loops.jobs(lasting.plane)
    assert found.lost == 0
    batches = [seen.batch for seen in lasting.plane.asked("take") if seen.batch]
    assert max(batches) == {"sdk": 30, "native": 8}[lasting.loop]


def test_a_cancelled_job_ends_before_its_time(lasting: Lasting) -> None:
    with lasting.brake.held():
        job_loops.cancel(lasting.plane)
    assert job_loops.jobs(lasting.plane).lost == 0
    assert lasting.plane.results["cancelled"].done is None


def test_a_job_without_input_is_told_so(lasting: Lasting) -> None:
    found = job_loops.without_input(lasting.plane)
    assert found.lost == 0
    assert "input" in found.said


@pytest.mark.parametrize("fault", ["503", "429", "garbage", "cut"])
def test_a_queue_that_fails(lasting: Lasting, fault: str) -> None:
    is_spared = lasting.loop == "native" or fault == "429"
    found = job_loops.take_fails(lasting.plane, TAKE_FAULTS[fault], seconds=3.0 if is_spared else START_S)
    assert found.lost == 0
    assert found.rate < 2 if is_spared else found.asked >= MANY


SDK_TRIES = 3
"""After these the SDK has given up (FibonacciRetry in its rp_http.py)."""


def done_fails(lasting: Lasting, fault: Fault, seconds: float) -> Found:
    """Of the SDK it is known when it gives up; what our own loop delivers is waited for."""
    if lasting.loop == "sdk":
        return job_loops.done_fails(lasting.plane, fault, seconds=1.0, tries=SDK_TRIES, then_s=4.0)
    return job_loops.done_fails(lasting.plane, fault, seconds, then_s=START_S)


def test_results_refused_for_seven_seconds(lasting: Lasting) -> None:
    found = done_fails(lasting, Fault(500), seconds=7.0)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]
    assert found.asked == SDK_TRIES if lasting.loop == "sdk" else found.rate < 2


def test_a_result_that_comes_at_the_wrong_moment(lasting: Lasting) -> None:
    if lasting.loop == "sdk":
        found = job_loops.done_fails(lasting.plane, Fault(429), seconds=1.0, then_s=2.0)
    else:
        found = job_loops.done_fails(lasting.plane, Fault(429), seconds=1.0, then_s=START_S)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]


def test_a_result_that_is_too_large(lasting: Lasting) -> None:
    then_s = {"sdk": 1.0, "native": START_S}[lasting.loop]
    found = job_loops.done_fails(lasting.plane, Fault(400, over=600), seconds=1.0, then_s=then_s)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]
    assert ("was refused" in found.said) == (lasting.loop == "native")


def test_a_job_that_nobody_knows_any_more_is_given_up(lasting: Lasting) -> None:
    found = job_loops.done_fails(lasting.plane, Fault(404), seconds=1.0, then_s=2.0)
    assert (found.lost, found.asked) == (1, 1)


def test_a_worker_that_was_frozen_goes_on(ending: Ending) -> None:
    found = job_loops.frozen(ending.plane, ending.process)
    assert found.lost == 0
    assert found.seconds < 30


def test_a_worker_with_nothing_to_do_ends(ending: Ending) -> None:
    found = job_loops.ends_idle(ending.plane, ending.process)
    ended = time.monotonic()
    assert found.said == "exit 0"
    if ending.loop == "sdk":
        assert ended - ending.plane.asked("take")[-1].at > HELD_S["sdk"], "the SDK waits for its polls"


def test_a_worker_that_is_told_to_end_amid_its_work(ending: Ending) -> None:
    ending.plane.poll_s = HELD_S["native"]
    found = job_loops.ends_at_work(ending.plane, ending.process, ending.brake)
    assert found.said == "exit 0"
    if ending.loop == "sdk":
        assert (found.jobs, found.lost) == (7, 1), "the SDK takes one more"
    else:
        assert found.lost == 0
    assert "Traceback" not in ending.process.output


def test_no_sign_of_life_outlives_a_killed_worker(ending: Ending) -> None:
    assert job_loops.killed(ending.plane, ending.process).said == "0 signs of life"
