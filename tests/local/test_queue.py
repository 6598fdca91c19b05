"""The queue: whatever comes, in order, to one worker at a time, and to exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from handler.local.contracts import QueueCounts
from handler.local.job import Asked, Policy
from handler.local.queue import MOST_ATTEMPTS, JobQueue, NoSuchJob
from handler.local_queue import Status
from tests.local.queue_parts import Memory, Time

WORKERS = ["a", "b", "c"]


def run(test: Callable[[JobQueue], Awaitable[None]]) -> None:
    async def ran() -> None:
        await test(JobQueue())

    asyncio.run(ran())


def test_polls_are_answered_in_their_order() -> None:
    async def test(queue: JobQueue) -> None:
        polls = [asyncio.create_task(queue.take(worker, 1, 60)) for worker in WORKERS]
        await asyncio.sleep(0)
        jobs = [queue.submit(Asked(number)) for number in range(3)]
        assert await asyncio.gather(*polls) == [[job] for job in jobs]

    run(test)


def test_a_poll_that_is_cut_as_its_job_comes_leaves_it_to_the_next() -> None:
    async def test(queue: JobQueue) -> None:
        first, second = (asyncio.create_task(queue.take(worker, 1, 60)) for worker in "ab")
        await asyncio.sleep(0)
        job = queue.submit(Asked(1))
        first.cancel()
        assert await asyncio.wait_for(second, 60) == [job]

    run(test)


def test_a_retired_workers_poll_ends_and_its_job_goes_to_the_next() -> None:
    async def test(queue: JobQueue) -> None:
        first, second = (asyncio.create_task(queue.take(worker, 1, 60)) for worker in "ab")
        await asyncio.sleep(0)
        job = queue.submit(Asked(1))
        queue.retire("a")
        assert [await asyncio.wait_for(poll, 60) for poll in (first, second)] == [[], [job]]

    run(test)


def test_an_empty_poll_ends_in_time_and_that_of_a_retired_worker_soon() -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.take("a", 1, 0.01) == []
        queue.retire("a")
        assert await asyncio.wait_for(queue.take("a", 1, 600), 60) == []
        assert await asyncio.wait_for(queue.stops("a", 600), 60) == []

    run(test)


def test_a_cancelled_job_is_stopped_at_its_worker_alone() -> None:
    async def test(queue: JobQueue) -> None:
        job = queue.submit(Asked(1))
        queue.take_now("a", 1)
        polls = [asyncio.create_task(queue.stops(worker, 0.05)) for worker in "ab"]
        await asyncio.sleep(0)
        queue.cancel(job.id)
        queue.finish(job.id, "a", "too late")
        assert await asyncio.gather(*polls) == [[job.id], []]
        assert job.view()["status"] == "CANCELLED"

    run(test)


def test_the_endpoint_has_a_time_limit_of_its_own() -> None:
    time = Time()
    queue = JobQueue(clock=time)
    queue.execution_s = 30
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    time.now += 30
    queue.expire()
    assert job.status is Status.TIMED_OUT


def test_time_limits_stop_the_job() -> None:
    async def test(_: JobQueue) -> None:
        time = Time()
        queue = JobQueue(clock=time)
        job = queue.submit(Asked(1, Policy(execution_s=5, ttl_s=100)))
        queue.take_now("a", 1)
        time.now += 4
        queue.expire()
        assert not job.is_final
        time.now += 1
        queue.expire()
        assert job.status is Status.TIMED_OUT
        assert job.view()["executionTime"] == 5000
        assert await queue.stops("a", 0) == [job.id]
        old = queue.submit(Asked(1, Policy(ttl_s=10)))
        time.now += 9
        queue.expire()
        assert not old.is_final
        time.now += 1
        queue.expire()
        assert old.status is Status.TIMED_OUT
        with pytest.raises(NoSuchJob):
            queue.get(old.id)

    run(test)


def test_a_job_that_loses_worker_after_worker_fails() -> None:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    for number in range(MOST_ATTEMPTS):
        assert queue.take_now(f"worker {number}", 1) == [job]
        queue.stream(job.id, f"worker {number}", "half")
        queue.worker_lost(f"worker {number}")
    assert job.status is Status.FAILED
    assert "lost" in job.view()["error"]
    assert queue.counts() == QueueCounts(failed=1, retried=MOST_ATTEMPTS - 1)


def test_a_loss_counts_against_all_jobs_of_the_worker_in_equal_shares() -> None:
    queue = JobQueue()
    jobs = [queue.submit(Asked(number)) for number in range(4)]
    for number in range(4 * MOST_ATTEMPTS):
        assert {job.status for job in jobs} == {Status.IN_QUEUE}
        queue.take_now(f"worker {number}", 4)
        queue.worker_lost(f"worker {number}")
    assert {job.status for job in jobs} == {Status.FAILED}


def test_a_job_that_does_not_reach_its_worker_has_not_been_tried() -> None:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    for _ in range(MOST_ATTEMPTS + 1):
        queue.hand_back("a", queue.take_now("a", 1))
    queue.take_now("a", 1)
    queue.worker_lost("a")
    assert job.status is Status.IN_QUEUE
    assert queue.counts().retried == 1


def test_a_retried_job_begins_anew_behind_all_others() -> None:
    time = Time()
    queue = JobQueue(clock=time)
    first, second = queue.submit(Asked(1)), queue.submit(Asked(2))
    queue.take_now("a", 1)
    queue.finish(first.id, "a", error="broken")
    time.now += 7
    assert queue.retry(first.id) is first
    assert queue.take_now("b", 9) == [second, first]
    assert (first.attempts, first.view()["delayTime"]) == (1, 0)
    assert queue.counts() == QueueCounts(in_progress=2, failed=1, retried=1)


def test_a_record_that_wants_it_is_written_anew_with_the_jobs_that_are_left() -> None:
    record = Memory()
    queue = JobQueue(record)
    waiting, ended, forgotten = (queue.submit(Asked(number, kept_s=number)) for number in range(3))
    queue.cancel(ended.id)
    queue.tell(ended)
    queue.cancel(forgotten.id)
    record.wants_rewriting = lambda: True  # type: ignore[method-assign]
    queue.keep(forgotten.id, -1)
    queue.expire()
    assert [(entry["kind"], entry["job"]) for entry in record.entries] == [
        ("submission", waiting.id), ("submission", ended.id), ("ending", ended.id), ("told", ended.id)
    ]


def test_what_a_lost_worker_streamed_is_not_told_twice() -> None:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    queue.stream(job.id, "a", "half")
    queue.worker_lost("a")
    queue.take_now("b", 1)
    queue.stream(job.id, "b", "whole")
    assert job.collect()["stream"] == [{"output": "whole"}]
    with pytest.raises(NoSuchJob, match="is not with worker a"):
        queue.stream(job.id, "a", "from the dead")


def test_a_reader_sees_that_a_stream_has_begun_anew() -> None:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    queue.stream(job.id, "a", "half")
    assert job.collect() == {"id": job.id, "status": "IN_PROGRESS", "stream": [{"output": "half"}]}
    queue.worker_lost("a")
    assert job.collect()["stream"] == []
    queue.take_now("b", 1)
    queue.stream(job.id, "b", "whole")
    assert job.collect() == {
        "id": job.id, "status": "IN_PROGRESS", "stream": [{"output": "whole"}], "attempt": 2
    }


def test_what_a_worker_that_lost_its_job_says_of_its_end_is_ignored() -> None:
    queue = JobQueue()
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    queue.worker_lost("a")
    queue.finish(job.id, "a", "while it waits")
    assert job.status is Status.IN_QUEUE
    queue.take_now("b", 1)
    queue.finish(job.id, "a", "while another has it")
    queue.progress(job.id, "a", "half")
    assert (job.status, job.worker_id) == (Status.IN_PROGRESS, "b")
    queue.finish(job.id, "b", "right")
    view = job.view()
    queue.finish(job.id, "a", "after the end")
    queue.finish(job.id, "b", "again")
    assert job.view() == view
    assert view["output"] == "right"
    assert queue.counts() == QueueCounts(completed=1, retried=1)
    with pytest.raises(NoSuchJob):
        queue.finish(job.id, "c", "from one that never had it")


def test_a_retried_job_is_not_forgotten_for_what_ends_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.local.queue.KEPT_JOBS", 2)
    queue = JobQueue()
    job = queue.submit(Asked(1))
    queue.take_now("a", 1)
    queue.finish(job.id, "a", error="broken")
    queue.retry(job.id)
    for number in range(3):
        queue.cancel(queue.submit(Asked(number)).id)
    assert queue.get(job.id) is job


def test_a_lost_worker_has_nothing_to_stop() -> None:
    async def test(queue: JobQueue) -> None:
        job = queue.submit(Asked(1))
        queue.take_now("a", 1)
        queue.cancel(job.id)
        queue.worker_lost("a")
        assert await queue.stops("a", 0) == []

    run(test)


def test_whoever_waits_for_a_change_is_told_of_each() -> None:
    queue = JobQueue()

    def has_changed() -> bool:
        try:
            return queue.changed.is_set()
        finally:
            queue.changed.clear()

    job = queue.submit(Asked(1))
    assert has_changed()
    queue.take_now("a", 1)
    assert has_changed()
    queue.stream(job.id, "a", "a piece")
    assert not has_changed()
    queue.worker_lost("a")
    assert has_changed()
    queue.cancel(job.id)
    assert has_changed()


def test_low_priority_calls_for_no_worker() -> None:
    time = Time()
    queue = JobQueue(clock=time)
    queue.submit(Asked(1, Policy(low_priority=True)))
    time.now += 7
    assert queue.oldest_wait_s() == 0
    queue.submit(Asked(1))
    time.now += 3
    assert queue.oldest_wait_s() == 3


def test_results_are_kept_for_a_while_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.local.queue.KEPT_JOBS", 50)
    time = Time()
    queue = JobQueue(clock=time)
    first = queue.submit(Asked(1, kept_s=60))
    queue.cancel(first.id)
    time.now += 59
    queue.expire()
    queue.keep(first.id, 10)
    time.now += 9
    queue.expire()
    assert queue.knows(first.id)
    time.now += 1
    queue.expire()
    assert not queue.knows(first.id)
    ids = [queue.submit(Asked(number)).id for number in range(50 + 2)]
    queue.purge()
    assert [queue.knows(job_id) for job_id in ids[:3]] == [False, False, True]


def test_the_input_is_kept_only_of_what_can_be_retried() -> None:
    async def scenario() -> None:
        queue = JobQueue()
        done, failed = (queue.submit(Asked({"prompt": "long"})) for _ in range(2))
        queue.take_now("worker", 2)
        queue.finish(done.id, "worker", "text")
        queue.finish(failed.id, "worker", error="no")
        assert (done.asked.input, failed.asked.input) == (None, {"prompt": "long"})
        assert queue.retry(failed.id).for_worker()["input"] == {"prompt": "long"}

    asyncio.run(scenario())
