"""Our own loop, as a process: what it keeps when it is ended, killed or misused, and how fast its streams are."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.handler.brake import Brake
from tests.handler.control_plane import ControlPlane, Fault
from tests.handler.job_loops import COUNT, long, worker
from tests.handler.processes import Process, eventually, running


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane().listening() as listening:
        yield listening
    assert listening.faults == []


def test_results_survive_the_worker_and_are_sent_by_its_next_life(plane: ControlPlane, tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}
    with worker(plane, "native", **state) as first, plane.failing("done", Fault(500)):
        plane.put("kept", COUNT)
        assert eventually(lambda: plane.asked("done"))
        assert eventually(lambda: any("kept" in ping.get("job_id", "") for ping in plane.pings)), "it is still its job"
        first.stop(signal.SIGKILL)
    assert plane.results["kept"].done is None
    with worker(plane, "native", **state) as second:
        assert plane.ended("kept")
        assert "earlier life" in second.output
        assert eventually(lambda: not list(tmp_path.rglob("results/**/*.json"))), "it is dropped after it is accepted"


def test_a_worker_that_cannot_deliver_takes_no_more_jobs_than_it_may_have(plane: ControlPlane) -> None:
    with worker(plane, "native", MAX_CONCURRENCY="3"), plane.failing("done", Fault(503)):
        for number in range(6):
            plane.put(f"job {number}", {"warmup": True})
        assert eventually(lambda: len(jobs_of(plane)) == 3)
        time.sleep(2)
        assert len(jobs_of(plane)) == 3


def jobs_of(plane: ControlPlane) -> list[str]:
    return [name for name in list(plane.handed) if name.startswith("job")]


def test_what_is_not_finished_within_the_grace_is_left_to_another_worker(plane: ControlPlane, tmp_path: Path) -> None:
    brake = Brake(tmp_path)
    with worker(plane, "native", PILOTLIGHT_GRACE="2", **brake.environment) as process, brake.held():
        for number in range(30):
            plane.put(f"long {number}", long(1900))
        assert eventually(lambda: len(plane.handed) > 6)
        assert process.stop() == 0
        unanswered = [name for name in plane.handed if plane.results[name].done is None]
        assert unanswered
        assert all(name in process.output for name in unanswered)
        assert [result for result in plane.results.values() if result.done and "error" in result.done] == []


def test_a_second_signal_waits_for_no_job(plane: ControlPlane, tmp_path: Path) -> None:
    brake = Brake(tmp_path)
    with worker(plane, "native", PILOTLIGHT_GRACE="600", **brake.environment) as process, brake.held():
        for number in range(30):
            plane.put(f"long {number}", long(1900))
        assert eventually(lambda: len(plane.handed) > 6)
        process.popen.send_signal(signal.SIGTERM)
        assert eventually(lambda: "told to end" in process.output)
        assert process.stop() == 0


def test_one_that_is_told_to_end_while_it_boots_ends_at_once(plane: ControlPlane, tmp_path: Path) -> None:
    journal, brake = tmp_path / "journal", Brake(tmp_path)
    native = {"PILOTLIGHT_JOB_LOOP": "native", "PILOTLIGHT_JOURNAL": str(journal)}
    environment = {**plane.environment(), **native, **brake.environment}
    plane.put("never begun", COUNT)
    with brake.held(), running(Process, "-m", "handler", environment=environment) as process:
        assert eventually(lambda: any(journal.glob("*")))
        time.sleep(0.2)  # The journal is made a moment before the signals' last handler; the first ends it as well.
        assert process.stop() == 0
        assert "Traceback" not in process.output
    assert plane.asked("take") == []


def test_a_model_that_cannot_be_booted_is_reported(plane: ControlPlane) -> None:
    environment = plane.environment() | {"MODEL_NAME": "/nowhere/at/all", "PILOTLIGHT_JOB_LOOP": "native"}
    with running(Process, "-m", "handler", environment=environment) as process:
        assert process.wait() == 1
    [ping] = eventually(lambda: list(plane.pings))
    assert (ping["status"], ping["check"]) == ("unhealthy", "model_boots")
    assert "/nowhere/at/all" in ping["reason"]
    assert plane.asked("take") == []


def test_without_a_place_for_results_it_does_not_begin(plane: ControlPlane) -> None:
    environment = plane.environment() | {"RUNPOD_WEBHOOK_POST_OUTPUT": "", "PILOTLIGHT_JOB_LOOP": "native"}
    with running(Process, "-m", "handler", environment=environment) as process:
        assert process.wait() == 1
        assert "RUNPOD_WEBHOOK_POST_OUTPUT" in process.output


def test_a_lost_device_fails_the_job_and_ends_the_worker(plane: ControlPlane) -> None:
    environment = plane.environment() | {"PILOTLIGHT_JOB_LOOP": "native"}
    with running(Process, str(Path(__file__).parent / "faulty.py"), "work", environment=environment) as process:
        done = plane.run("lost", {**COUNT, "sampling_params": {"seed": 666}}).done
        assert done is not None
        assert "device" in done["error"]
        assert process.wait() == 1


def test_the_sdk_is_not_imported(plane: ControlPlane) -> None:
    environment = plane.environment() | {"PILOTLIGHT_JOB_LOOP": "native", "PYTHONPROFILEIMPORTTIME": "1"}
    with running(Process, "-m", "handler", environment=environment) as process:
        plane.run("first", COUNT)
        assert "aiohttp" in process.output
        assert "| runpod" not in process.output


def test_what_the_engine_makes_during_a_round_trip_goes_into_one_piece() -> None:
    with ControlPlane(round_trip_s=1.0).listening() as plane, worker(plane, "native"):
        streamed = plane.run("streamed", long(200))
        assert streamed.done is not None
        assert streamed.streamed == streamed.done["output"]
        seconds = streamed.done_at - plane.handed["streamed"]
        assert len(streamed.streamed) < 3 + seconds, "stop and wait would be 200 pieces, or one in job_batch_ms"
