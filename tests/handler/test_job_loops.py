"""What RunPod's SDK and our own loop do in the same situations; where they differ, both are stated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.handler import job_loops
from tests.handler.control_plane import ControlPlane, Fault
from tests.handler.job_loops import LOOPS, TAKE_FAULTS, Loop, worker
from tests.handler.processes import Process

HELD_S = 4.0
"""How long polls are held while a worker ends."""


class Lasting(NamedTuple):
    """A worker that all these tests share."""

    loop: Loop
    plane: ControlPlane


class Ending(NamedTuple):
    """A worker for one test."""

    loop: Loop
    plane: ControlPlane
    process: Process


@pytest.fixture(scope="module", params=LOOPS)
def lasting(request: pytest.FixtureRequest) -> Iterator[Lasting]:
    with ControlPlane().listening() as plane, worker(plane, request.param):
        yield Lasting(request.param, plane)
    assert plane.faults == []


@pytest.fixture(params=LOOPS)
def ending(request: pytest.FixtureRequest) -> Iterator[Ending]:
    with ControlPlane(poll_s=HELD_S).listening() as plane, worker(plane, request.param) as process:
        yield Ending(request.param, plane, process)


def test_twenty_jobs_at_once_end_once_each_and_right(lasting: Lasting) -> None:
    found = job_loops.jobs(lasting.plane)
    assert found.lost == 0
    batches = [seen.batch for seen in lasting.plane.asked("take") if seen.batch]
    assert max(batches) == {"sdk": 30, "native": 8}[lasting.loop]


def test_a_cancelled_job_ends_soon(lasting: Lasting) -> None:
    assert job_loops.cancel(lasting.plane).seconds < 2
    assert job_loops.jobs(lasting.plane).lost == 0


def test_a_job_without_input_is_told_so(lasting: Lasting) -> None:
    found = job_loops.without_input(lasting.plane)
    assert found.lost == 0
    assert "input" in found.said


@pytest.mark.parametrize("fault", ["503", "429", "garbage", "cut"])
def test_a_queue_that_fails(lasting: Lasting, fault: str) -> None:
    found = job_loops.take_fails(lasting.plane, TAKE_FAULTS[fault], seconds=3.0)
    assert found.lost == 0
    is_spared = lasting.loop == "native" or fault == "429"
    assert found.rate < 2 if is_spared else found.rate > 20


def test_results_refused_for_seven_seconds(lasting: Lasting) -> None:
    found = job_loops.done_fails(lasting.plane, Fault(500), seconds=7.0)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]
    assert found.rate < 2


def test_a_result_that_comes_at_the_wrong_moment(lasting: Lasting) -> None:
    found = job_loops.done_fails(lasting.plane, Fault(429), seconds=1.0)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]


def test_a_result_that_is_too_large(lasting: Lasting) -> None:
    found = job_loops.done_fails(lasting.plane, Fault(400, over=600), seconds=1.0, then_s=1.0)
    assert found.lost == {"sdk": 1, "native": 0}[lasting.loop]
    assert ("was refused" in found.said) == (lasting.loop == "native")


def test_a_job_that_nobody_knows_any_more_is_given_up(lasting: Lasting) -> None:
    found = job_loops.done_fails(lasting.plane, Fault(404), seconds=1.0, then_s=2.0)
    assert found.lost == 1
    assert found.rate == 1


def test_a_worker_that_was_frozen_goes_on(ending: Ending) -> None:
    found = job_loops.frozen(ending.plane, ending.process)
    assert found.lost == 0
    assert found.seconds < 30


@pytest.mark.alone
def test_a_worker_with_nothing_to_do_ends(ending: Ending) -> None:
    found = job_loops.ends_idle(ending.plane, ending.process)
    assert found.said == "exit 0"
    assert found.seconds < 2 if ending.loop == "native" else found.seconds > 2, "the SDK waits for its polls"


def test_a_worker_that_is_told_to_end_amid_its_work(ending: Ending) -> None:
    found = job_loops.ends_at_work(ending.plane, ending.process)
    assert found.said == "exit 0"
    assert (found.jobs, found.lost) == {"sdk": (7, 1), "native": (6, 0)}[ending.loop], "the SDK takes one more"
    assert "Traceback" not in ending.process.output


def test_no_sign_of_life_outlives_a_killed_worker(ending: Ending) -> None:
    assert job_loops.killed(ending.plane, ending.process).said == "0 signs of life"
