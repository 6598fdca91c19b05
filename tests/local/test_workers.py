"""Workers as real processes: how they come, what becomes of their jobs when they go, and that none is left over."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from handler.local import workers
from handler.local.job import Asked, Job
from handler.local.runtime import CannotStart, describe
from handler.local.scaler import Scaling
from handler.local.worker import Worker, WorkerState
from handler.local_queue import Status
from tests.local.crew import COUNTING, FAILING, PATIENT, STUBBORN, Crew, becomes, crew, run
from tests.local.up_process import runs


def pid_of(worker: Worker) -> int:
    assert worker.handle is not None
    return int(worker.handle.name.removeprefix("pid "))


async def next_jobs(endpoint: Crew, worker: Worker) -> list[Job]:
    """What it is given once it is given something: a frozen one's polls end early."""
    while not (jobs := await endpoint.queue.take(worker.id, 1, 5)):
        pass
    return jobs


async def given_a_job(endpoint: Crew) -> Job:
    """A job that the one worker has."""
    job = endpoint.queue.submit(Asked({}))
    worker = await endpoint.started()
    assert await endpoint.queue.take(worker.id, 1, 5) == [job]
    await endpoint.is_in(WorkerState.RUNNING)
    return job


def test_a_request_starts_a_worker_and_idleness_ends_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT) as endpoint:
            job = await given_a_job(endpoint)
            worker = endpoint.only
            pid = pid_of(worker)
            endpoint.queue.finish(job.id, worker.id, "done")
            ended = time.monotonic()
            await endpoint.is_gone()
            assert time.monotonic() - ended >= 1
            assert not runs(pid)
            assert job.status is Status.COMPLETED
            [charge] = endpoint.bill.charges()
            assert (charge.worker, charge.why) == (worker.id, "scaled down")

    run(test())


def test_its_key_is_its_own_and_ends_with_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, Scaling(workers_min=2)) as endpoint:
            await becomes(lambda: len(endpoint.all()) == 2)
            one, other = endpoint.all()
            assert endpoint.workers.authorises(one.id, one.key)
            assert not endpoint.workers.authorises(one.id, other.key)
            assert not endpoint.workers.authorises("nobody", one.key)
            await becomes(lambda: one.handle)
            os.kill(pid_of(one), signal.SIGKILL)
            await becomes(lambda: not endpoint.workers.authorises(one.id, one.key))

    run(test())


def test_a_killed_workers_job_goes_back_to_the_queue_and_to_the_next_worker(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT) as endpoint:
            job = await given_a_job(endpoint)
            killed = endpoint.only
            os.kill(pid_of(killed), signal.SIGKILL)
            await becomes(lambda: job.status is Status.IN_QUEUE)
            await becomes(lambda: endpoint.all() and endpoint.only.id != killed.id)
            second = await endpoint.started()
            assert await endpoint.queue.take(second.id, 1, 5) == [job]
            assert endpoint.queue.counts().retried == 1
            assert endpoint.bill.charges()[0].why == "was ended by SIGKILL"

    run(test())


def test_one_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, STUBBORN, Scaling(workers_min=1), grace_s=0.5) as endpoint:
            await becomes(lambda: endpoint.all() and "set" in endpoint.only.tail())
            pid = pid_of(endpoint.only)
            endpoint.scaler.choose(Scaling(workers_max=0))
            began = time.monotonic()
            await endpoint.is_gone()
            assert time.monotonic() - began >= 0.5
            assert not runs(pid)

    run(test())


def test_a_worker_with_a_job_is_not_told_to_stop_before_it_is_done(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT) as endpoint:
            job = await given_a_job(endpoint)
            worker = endpoint.only
            endpoint.scaler.choose(Scaling(workers_max=0))
            await endpoint.is_in(WorkerState.STOPPING)
            endpoint.queue.submit(Asked({}))
            assert endpoint.queue.take_now(worker.id, 1) == [], "it gets no more"
            await asyncio.sleep(0.3)
            assert runs(pid_of(worker))
            endpoint.queue.finish(job.id, worker.id, "done")
            await endpoint.is_gone()

    run(test())


def test_workers_that_die_while_they_boot_are_tried_ever_more_seldom(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with crew(tmp_path, FAILING) as endpoint:
            job = endpoint.queue.submit(Asked({}))
            await becomes(lambda: endpoint.workers.back_off.failures >= 2 and endpoint.workers.counts().unhealthy == 1)
            assert job.status is Status.IN_QUEUE
            assert len(endpoint.bill.charges()) == endpoint.workers.back_off.failures

    with caplog.at_level(logging.INFO, "pilotlight.local"):
        run(test())
    first, second, *_ = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert "ended with status 1 before it was ready; its last line: the model is not there" in first
    assert "the next try is in 1 s" in first
    assert "the next try is in 2 s" in second
    assert str(tmp_path / "workers") in first


def test_what_one_wrote_last_is_said_also_when_it_dies_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dying = "import time; print('out of memory', flush=True); time.sleep(60)"

    async def test() -> None:
        async with crew(tmp_path, dying) as endpoint:
            await given_a_job(endpoint)
            worker = endpoint.only
            await becomes(lambda: "memory" in worker.tail())
            os.kill(pid_of(worker), signal.SIGKILL)
            await becomes(worker.over.is_set)

    run(test())
    said = f"was ended by SIGKILL; 1 jobs were with it; its last line: out of memory (all it wrote: {tmp_path}/workers/"
    assert said in caplog.text


def test_one_that_comes_up_ends_the_back_off(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT) as endpoint:
            back_off = endpoint.workers.back_off
            back_off.failed(time.monotonic())
            back_off.not_before += 3600
            endpoint.queue.submit(Asked({}))
            await asyncio.sleep(0.2)
            assert endpoint.all() == []
            back_off.not_before = 0.0
            await endpoint.started()
            assert endpoint.workers.back_off.failures == 0

    run(test())


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    from handler.local.processes import Processes

    with pytest.raises(CannotStart, match="/nowhere/python: No such file"):
        asyncio.run(Processes(("/nowhere/python",)).start("w", {}, tmp_path / "log"))


def test_a_disk_that_takes_no_folder_ends_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT) as endpoint:
            (tmp_path / "workers").write_text("no room for a folder")
            endpoint.queue.submit(Asked({}))
            await endpoint.is_in(WorkerState.THROTTLED)
            (tmp_path / "workers").unlink()
            await endpoint.started()

    run(test())


def test_a_worker_without_work_is_frozen_and_thawed_for_the_next_job(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, COUNTING, flashboot=True) as endpoint:
            job = await given_a_job(endpoint)
            worker = endpoint.only
            endpoint.queue.finish(job.id, worker.id, "done")
            await becomes(lambda: [charge.why for charge in endpoint.bill.charges()] == ["frozen"])
            said = worker.tail()
            await asyncio.sleep(0.5)
            assert worker.tail() == said, "it is really frozen"
            assert endpoint.workers.counts().idle == 0
            again = endpoint.queue.submit(Asked({}))
            assert await next_jobs(endpoint, worker) == [again]
            await becomes(lambda: worker.tail() != said)
            await endpoint.is_in(WorkerState.RUNNING)
            assert endpoint.only is worker
            frozen = endpoint.bill.charges()[0]
            assert frozen.why == "frozen"
            assert frozen.ms < 1000 * (time.time() - worker.started_wall) - 500

    run(test())


def test_those_that_are_thawed_together_are_several(tmp_path: Path) -> None:
    async def test() -> None:
        two = Scaling(workers_min=2, idle_timeout_s=1)
        async with crew(tmp_path, PATIENT, two, flashboot=True) as endpoint:
            await becomes(lambda: len(endpoint.all()) == 2 and all(worker.handle for worker in endpoint.all()))
            for worker in endpoint.all():
                endpoint.workers.asks_for_jobs(worker.id)
            endpoint.scaler.choose(Scaling(idle_timeout_s=1))
            await becomes(lambda: all(worker.state is WorkerState.FROZEN for worker in endpoint.all()))
            endpoint.scaler.choose(two)
            await becomes(lambda: endpoint.workers.counts().idle == 2)
            assert len(endpoint.all()) == 2

    run(test())


def test_a_frozen_worker_gets_no_job_and_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, flashboot=True) as endpoint:
            job = await given_a_job(endpoint)
            worker = endpoint.only
            endpoint.workers.pinged(worker.id, [job.id], None)
            endpoint.queue.finish(job.id, worker.id, "done")
            await endpoint.is_in(WorkerState.FROZEN)
            assert await endpoint.queue.take(worker.id, 1, 0.1) == []
            monkeypatch.setattr(workers, "MISSED_PINGS", 0)
            await asyncio.sleep(2.5)
            assert worker.state is WorkerState.FROZEN, "its pings are not expected"

    run(test())


def test_no_more_are_kept_frozen_than_there_may_be_and_none_without_flashboot(tmp_path: Path) -> None:
    async def test() -> None:
        many, none = Scaling(workers_min=2, idle_timeout_s=1), Scaling(idle_timeout_s=1, workers_max=1)
        async with crew(tmp_path, PATIENT, many, flashboot=True) as endpoint:
            await becomes(lambda: len(endpoint.all()) == 2 and all(worker.handle for worker in endpoint.all()))
            for worker in endpoint.all():
                endpoint.workers.asks_for_jobs(worker.id)
            endpoint.scaler.choose(none)
            await becomes(lambda: len(endpoint.all()) == 1)
            await endpoint.is_in(WorkerState.FROZEN)
            endpoint.workers.flashboot = False
            endpoint.scaler.choose(none)
            await endpoint.is_gone()

    run(test())


def test_a_worker_that_stops_pinging_is_killed_and_its_job_goes_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, ping_s=1) as endpoint:
            job = await given_a_job(endpoint)
            worker = endpoint.only
            pinged = time.monotonic()
            endpoint.workers.pinged(worker.id, [job.id], None)
            os.kill(pid_of(worker), signal.SIGSTOP)
            await becomes(lambda: job.status is Status.IN_QUEUE)
            assert time.monotonic() - pinged >= 3
            await becomes(worker.over.is_set)
            assert not runs(pid_of(worker))
            assert endpoint.bill.charges()[0].why == "no ping for 3 s"

    run(test())


def test_one_that_never_pinged_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MISSED_PINGS", 1)

    async def test() -> None:
        async with crew(tmp_path, PATIENT, ping_s=1) as endpoint:
            job = await given_a_job(endpoint)
            await asyncio.sleep(1.5)
            assert job.status is Status.IN_PROGRESS

    run(test())


def test_a_worker_that_says_it_is_unfit_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, Scaling(workers_min=1)) as endpoint:
            worker = await endpoint.started()
            endpoint.workers.pinged(worker.id, [], "_memory_check: no memory")
            assert endpoint.workers.counts().unhealthy == 1
            await becomes(lambda: endpoint.all() and worker not in endpoint.all())
            assert endpoint.bill.charges()[0].why == "unfit: _memory_check: no memory"

    run(test())


def test_a_worker_that_asks_to_be_replaced_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, Scaling(workers_min=1)) as endpoint:
            worker = await endpoint.started()
            endpoint.workers.wants_replacement(worker.id)
            await becomes(lambda: endpoint.all() and worker not in endpoint.all())

    run(test())


def test_at_the_end_all_are_stopped_frozen_ones_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with crew(tmp_path, PATIENT, flashboot=True) as endpoint:
            job = await given_a_job(endpoint)
            pid = pid_of(endpoint.only)
            endpoint.queue.finish(job.id, endpoint.only.id, "done")
            await endpoint.is_in(WorkerState.FROZEN)
            await endpoint.workers.close()
            assert endpoint.all() == []
            assert not runs(pid)
            assert [charge.why for charge in endpoint.bill.charges()] == ["frozen", "the endpoint ends"]

    run(test())


def test_how_a_process_has_ended_is_said_in_words() -> None:
    words = [describe(status) for status in (0, 3, -9, -15, -200)]
    assert words == [
        "ended with status 0", "ended with status 3", "was ended by SIGKILL", "was ended by SIGTERM",
        "was ended by signal 200",
    ]
