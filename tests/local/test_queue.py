"""The queue: whatever comes, in order, to one worker at a time, and to exactly one end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import InvalidRequest
from handler.local.contracts import QueueCounts
from handler.local.job import Asked, Job, Policy
from handler.local.queue import MOST_ATTEMPTS, JobQueue, NoSuchJob
from handler.local.record import Entry
from handler.local_queue import Status

WORKERS = ["a", "b", "c"]
EXECUTION_S, TTL_S, KEPT_S = 50.0, 400.0, 100.0
FEW_ATTEMPTS = 2
"""Few enough that a walk by chance comes to the last one."""


class Memory:
    """A record that outlives its queue. What it holds has been JSON."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self.entries.append(json.loads(json.dumps(entry)))

    async def written(self) -> None:
        pass

    def wants_rewriting(self) -> bool:
        return False

    def rewrite(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class AnyLife(RuleBasedStateMachine):
    """The queue beside a model of it: who waits, in which order, and who has what."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.record = Time(), Memory()
        self.queue = JobQueue(self.record, clock=self.time)
        self.queue.most_attempts = FEW_ATTEMPTS
        self.ids: list[str] = []
        self.waiting: list[tuple[bool, int, str]] = []
        self.holder: dict[str, str] = {}
        self.retired: set[str] = set()
        self.lives: Counter[str] = Counter()
        self.places = 0

    def job_id(self, pick: int) -> str:
        return self.ids[pick % len(self.ids)]

    def line_up(self, job: Job) -> None:
        self.places += 1
        self.waiting.append((job.asked.policy.low_priority, self.places, job.id))

    def went(self, job_id: str) -> None:
        self.waiting = [place for place in self.waiting if place[2] != job_id]
        self.holder.pop(job_id, None)

    @rule(low=st.booleans())
    def submit(self, low: bool) -> None:
        job = self.queue.submit(Asked({"n": len(self.ids)}, Policy(EXECUTION_S, TTL_S, low), kept_s=KEPT_S))
        self.ids.append(job.id)
        self.lives[job.id] += 1
        self.line_up(job)

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 4))
    def take(self, worker: str, count: int) -> None:
        taken = [job.id for job in self.queue.take_now(worker, count)]
        due = [] if worker in self.retired else sorted(self.waiting)[:count]
        assert taken == [job_id for _, _, job_id in due], "in the order of submission, low priority last"
        for job_id in taken:
            assert job_id not in self.holder, "nobody else has it"
            self.went(job_id)
            self.holder[job_id] = worker

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0), worker=st.sampled_from(WORKERS), fails=st.booleans())
    def finish(self, pick: int, worker: str, fails: bool) -> None:
        job_id, is_right = self.job_id(pick), self.holder.get(self.job_id(pick)) == worker
        try:
            self.queue.stream(job_id, worker, "a part")
            self.queue.finish(job_id, worker, ["a part"], "broken" if fails else None)
        except NoSuchJob:
            assert not is_right
            return
        if is_right:
            assert self.queue.get(job_id).status is (Status.FAILED if fails else Status.COMPLETED)
            self.went(job_id)

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        if self.queue.knows(job_id := self.job_id(pick)):
            open_before = not self.queue.get(job_id).is_final
            assert (self.queue.cancel(job_id).status is Status.CANCELLED) or not open_before
            self.went(job_id)

    @precondition(lambda self: self.ids)
    @rule(pick=st.integers(0))
    def retry(self, pick: int) -> None:
        if not self.queue.knows(job_id := self.job_id(pick)):
            return
        if self.queue.get(job_id).status in (Status.FAILED, Status.TIMED_OUT):
            self.lives[job_id] += 1
            self.line_up(self.queue.retry(job_id))
        else:
            with pytest.raises(InvalidRequest, match="only a job that is FAILED"):
                self.queue.retry(job_id)

    @rule()
    def purge(self) -> None:
        assert self.queue.purge() == len(self.waiting)
        self.waiting.clear()

    @precondition(lambda self: self.holder)
    @rule(pick=st.integers(0))
    def hand_back(self, pick: int) -> None:
        job_id = sorted(self.holder)[pick % len(self.holder)]
        self.queue.hand_back(self.holder.pop(job_id), [self.queue.get(job_id)])
        self.back_in_place(job_id)

    def back_in_place(self, job_id: str) -> None:
        job = self.queue.get(job_id)
        self.waiting.append((job.asked.policy.low_priority, job.number, job_id))

    @rule(worker=st.sampled_from(WORKERS), for_good=st.booleans())
    def lose_or_retire(self, worker: str, for_good: bool) -> None:
        self.retired.add(worker)
        if not for_good:
            self.queue.retire(worker)
            return
        lost = [job_id for job_id, owner in self.holder.items() if owner == worker]
        too_often = {job_id for job_id in lost if self.queue.get(job_id).blame + Fraction(1, len(lost)) >= FEW_ATTEMPTS}
        self.queue.worker_lost(worker)
        for job_id in lost:
            self.holder.pop(job_id)
            if job_id in too_often:
                assert self.queue.get(job_id).status is Status.FAILED
            else:
                self.back_in_place(job_id)

    @rule(worker=st.sampled_from(WORKERS))
    def employ(self, worker: str) -> None:
        self.retired.discard(worker)
        self.queue.employ(worker)

    @rule(seconds=st.sampled_from([1.0, 20.0, 60.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.time.now += seconds
        self.queue.expire()
        for job_id in self.ids:
            if not self.queue.knows(job_id) or self.queue.get(job_id).is_final:
                self.went(job_id)

    @rule()
    def restart(self) -> None:
        before = {job.id: (job.view(), job.chunks) for job in self.queue.jobs() if job.is_final}
        self.queue = JobQueue(self.record, clock=self.time)
        self.queue.most_attempts = FEW_ATTEMPTS
        self.queue.replay(list(self.record.entries))
        self.retired.clear()
        after = {job.id: (job.view(), job.chunks) for job in self.queue.jobs() if job.is_final}
        assert after == before, "results are kept"
        self.holder.clear()
        self.places = len(self.record.entries)
        self.waiting = [
            (job.asked.policy.low_priority, job.number, job.id) for job in self.queue.jobs() if not job.is_final
        ]

    @invariant()
    def counts_agree(self) -> None:
        counts = self.queue.counts()
        assert counts.in_queue == len(self.waiting)
        assert counts.low_priority == sum(low for low, _, _ in self.waiting)
        assert counts.in_progress == len(self.holder)
        for worker in WORKERS:
            assert set(self.queue.held_by(worker)) == {i for i, owner in self.holder.items() if owner == worker}

    def teardown(self) -> None:
        self.time.now += TTL_S
        self.queue.expire()
        self.time.now += KEPT_S
        self.queue.expire()
        assert self.queue.jobs() == []
        ends = Counter(entry["job"] for entry in self.record.entries if entry["kind"] == "ending")
        assert ends == self.lives, "each submission and each retry came to one end"


AnyLife.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyLife = AnyLife.TestCase


def run(test: Callable[[JobQueue], Awaitable[None]]) -> None:
    async def ran() -> None:
        await test(JobQueue())

    asyncio.run(ran())


def test_polls_are_answered_in_their_order() -> None:
    async def test(queue: JobQueue) -> None:
        polls = [asyncio.create_task(queue.take(worker, 1, 5)) for worker in WORKERS]
        await asyncio.sleep(0)
        jobs = [queue.submit(Asked(number)) for number in range(3)]
        assert await asyncio.gather(*polls) == [[job] for job in jobs]

    run(test)


def test_a_poll_that_is_cut_as_its_job_comes_leaves_it_to_the_next() -> None:
    async def test(queue: JobQueue) -> None:
        first, second = (asyncio.create_task(queue.take(worker, 1, 5)) for worker in "ab")
        await asyncio.sleep(0)
        job = queue.submit(Asked(1))
        first.cancel()
        assert await asyncio.wait_for(second, 2) == [job]

    run(test)


def test_a_retired_workers_poll_ends_and_its_job_goes_to_the_next() -> None:
    async def test(queue: JobQueue) -> None:
        first, second = (asyncio.create_task(queue.take(worker, 1, 5)) for worker in "ab")
        await asyncio.sleep(0)
        job = queue.submit(Asked(1))
        queue.retire("a")
        assert [await asyncio.wait_for(poll, 2) for poll in (first, second)] == [[], [job]]

    run(test)


def test_an_empty_poll_ends_in_time_and_that_of_a_retired_worker_soon() -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.take("a", 1, 0.01) == []
        queue.retire("a")
        assert await asyncio.wait_for(queue.take("a", 1, 60), 2) == []
        assert await asyncio.wait_for(queue.stops("a", 60), 2) == []

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
