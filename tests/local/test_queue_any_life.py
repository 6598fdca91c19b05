"""The queue, whatever comes: beside a model of it, by walks of chance."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import InvalidRequest
from handler.local.job import Asked, Job, Policy
from handler.local.queue import JobQueue, NoSuchJob
from handler.local_queue import Status
from tests.local.queue_parts import Memory, Time

WORKERS = ["a", "b", "c"]
EXECUTION_S, TTL_S, KEPT_S = 50.0, 400.0, 100.0
FEW_ATTEMPTS = 2
"""Few enough that a walk by chance comes to the last one."""


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
        in_order = sorted(self.holder, key=self.ids.index)  # Not by the ids, which are others in each run.
        job_id = in_order[pick % len(self.holder)]
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
