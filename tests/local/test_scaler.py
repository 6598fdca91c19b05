"""What the scalers decide, worked out by hand, and what they never do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidConfig
from handler.local.scaler import Demand, Plan, Readiness, Scaling, Seen, Situation, decide

DELAY = Scaling()  # 4 s, 0 to 3 workers, idle for 5 s.
COUNT = Scaling("REQUEST_COUNT", 4)


def workers(*readiness: Readiness, since: float = 0.0) -> list[Seen]:
    return [Seen(f"w{number}", kind, since + number) for number, kind in enumerate(readiness)]


def waiting(count: int, since: float, in_progress: int = 0) -> Demand:
    return Demand(count, in_progress, since)


# QUEUE_DELAY


def test_nothing_to_do_is_no_worker() -> None:
    assert decide(Situation(DELAY, Demand()), 100) == Plan()


def test_the_first_request_starts_the_first_worker_at_once() -> None:
    plan = decide(Situation(DELAY, waiting(1, since=100)), 100)
    assert plan.start == 1


def test_one_more_worker_after_each_four_seconds_of_waiting() -> None:
    starting = workers("starting")
    assert decide(Situation(DELAY, waiting(5, 100), starting, last_start=100), 103.9) == Plan(look_again=104)
    assert decide(Situation(DELAY, waiting(5, 100), starting, last_start=100), 104).start == 1
    two = workers("starting", "starting")
    assert decide(Situation(DELAY, waiting(5, 100), two, last_start=104), 107.9).start == 0
    assert decide(Situation(DELAY, waiting(5, 100), two, last_start=104), 108).start == 1


def test_no_more_workers_boot_than_requests_wait() -> None:
    assert decide(Situation(DELAY, waiting(1, 100), workers("starting"), last_start=100), 150) == Plan()


def test_a_worker_that_has_just_come_up_is_given_time_to_take_what_waited_for_it() -> None:
    [up] = workers("idle", since=120)  # A boot of 20 s.
    assert decide(Situation(DELAY, waiting(1, 100), [up], last_start=100), 120) == Plan(look_again=124)
    assert decide(Situation(DELAY, waiting(1, 100), [up], last_start=100), 124).start == 1, "it takes nothing"


def test_a_request_that_waits_behind_busy_workers_gets_one_after_its_own_four_seconds() -> None:
    busy = workers("busy", "busy")
    assert decide(Situation(DELAY, waiting(1, 100, in_progress=2), busy, last_start=10), 103) == Plan(look_again=104)
    assert decide(Situation(DELAY, waiting(1, 100, in_progress=2), busy, last_start=10), 104).start == 1


def test_there_are_never_more_than_the_most() -> None:
    assert decide(Situation(DELAY, waiting(99, 0), workers("busy", "busy", "busy"), last_start=0), 100) == Plan()


def test_those_that_are_being_stopped_take_up_room() -> None:
    assert decide(Situation(DELAY, waiting(9, 0), stopping=3), 100).start == 0
    assert decide(Situation(DELAY, waiting(9, 0), stopping=2), 100).start == 1


def test_low_priority_starts_nobody() -> None:
    assert decide(Situation(DELAY, Demand(in_queue=0, in_progress=0)), 100) == Plan()


# REQUEST_COUNT


@pytest.mark.parametrize(
    ("in_queue", "in_progress", "workers_wanted"), [(0, 0, 0), (1, 0, 1), (4, 0, 1), (5, 0, 2), (3, 5, 2), (99, 0, 3)]
)
def test_so_many_requests_make_a_worker(in_queue: int, in_progress: int, workers_wanted: int) -> None:
    assert decide(Situation(COUNT, Demand(in_queue, in_progress, 0.0)), 0).start == workers_wanted


def test_what_runs_counts_with_what_waits() -> None:
    assert decide(Situation(COUNT, Demand(1, 4, 0.0), workers("busy")), 0).start == 1


def test_an_idle_worker_that_the_count_calls_for_stays() -> None:
    two = workers("busy", "idle")
    assert decide(Situation(COUNT, Demand(0, 5), two), 1000) == Plan()
    assert decide(Situation(COUNT, Demand(0, 4), two), 1000).stop == ("w1",)


# The idle timeout, the least and the most.


def test_an_idle_worker_goes_after_its_timeout_and_not_before() -> None:
    idle = workers("idle", since=100)
    assert decide(Situation(DELAY, Demand(), idle), 104.9) == Plan(look_again=105)
    assert decide(Situation(DELAY, Demand(), idle), 105) == Plan(stop=("w0",))


def test_each_goes_at_its_own_time_the_longest_idle_first() -> None:
    idle = workers("idle", "idle", "idle", since=100)  # Since 100, 101 and 102.
    assert decide(Situation(DELAY, Demand(), idle), 106) == Plan(stop=("w0", "w1"), look_again=107)


def test_a_busy_or_booting_worker_never_goes_for_being_idle() -> None:
    assert decide(Situation(DELAY, Demand(0, 1), workers("busy", "starting")), 1000).stop == ()


def test_the_least_are_started_without_a_request_and_stay() -> None:
    scaling = Scaling(workers_min=2)
    assert decide(Situation(scaling, Demand()), 0).start == 2
    assert decide(Situation(scaling, Demand(), workers("idle", "idle", "idle")), 1000).stop == ("w0",)


def test_a_ready_worker_stays_until_the_one_that_is_to_be_always_there_is_up() -> None:
    scaling = Scaling(workers_min=1, workers_max=2)
    assert decide(Situation(scaling, Demand(), workers("idle", "starting")), 1000) == Plan()
    assert decide(Situation(scaling, Demand(), workers("idle", "idle")), 1000).stop == ("w0",)
    busy = decide(Situation(scaling, Demand(0, 1), workers("idle", "busy")), 1000)
    assert busy.stop == ("w0",), "one that works is there, too"


def test_one_that_boots_does_not_stand_in_for_one_that_the_count_calls_for() -> None:
    assert decide(Situation(COUNT, Demand(0, 5), workers("busy", "idle", "starting")), 1000) == Plan()


def test_when_the_most_is_lowered_booting_ones_go_first_then_idle_then_busy_ones() -> None:
    all_kinds = workers("busy", "idle", "starting")
    lowered = [Scaling(workers_max=most) for most in (2, 1, 0)]
    stops = [decide(Situation(scaling, Demand(0, 1), all_kinds), 2).stop for scaling in lowered]
    assert stops == [("w2",), ("w2", "w1"), ("w2", "w1", "w0")]


def test_nobody_is_started_while_starts_fail() -> None:
    failing = Situation(DELAY, waiting(1, 0), not_before=108)
    assert decide(failing, 104) == Plan(look_again=108)
    assert decide(failing, 108).start == 1


# What never happens.

KINDS = st.sampled_from(["starting", "idle", "busy"])
SITUATIONS = st.builds(
    lambda kind, value, least, more, in_queue, in_progress, age, kinds, last, stopping: Situation(
        Scaling(kind, value, least, least + more),
        Demand(in_queue, in_progress, 1000 - age if in_queue else None),
        workers(*kinds, since=990), last, stopping=stopping,
    ),
    st.sampled_from(["QUEUE_DELAY", "REQUEST_COUNT"]), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3),
    st.integers(0, 20), st.integers(0, 20), st.floats(0, 100), st.lists(KINDS, max_size=8),
    st.none() | st.floats(900, 1000), st.integers(0, 3),
)


@given(SITUATIONS)
def test_a_plan_keeps_the_limits_and_does_one_thing(situation: Situation) -> None:
    plan = decide(situation, 1000)
    count, scaling = len(situation.workers), situation.scaling
    assert not (plan.start and plan.stop)
    if plan.start:
        assert count + plan.start + situation.stopping <= scaling.workers_max
    assert len(set(plan.stop)) == len(plan.stop)
    assert count - len(plan.stop) >= min(count, scaling.workers_min)
    assert count - len(plan.stop) <= scaling.workers_max or not plan.stop
    assert plan.look_again is None or plan.look_again > 1000


@given(SITUATIONS)
def test_of_those_that_are_up_the_least_stay(situation: Situation) -> None:
    stopped = decide(situation, 1000).stop
    ready = [worker.id for worker in situation.workers if worker.readiness != "starting"]
    left = [worker_id for worker_id in ready if worker_id not in stopped]
    assert len(left) >= min(len(ready), situation.scaling.workers_min)


@given(SITUATIONS)
def test_a_worker_at_work_goes_only_when_there_are_too_many(situation: Situation) -> None:
    busy = {worker.id for worker in situation.workers if worker.readiness == "busy"}
    if busy & set(decide(situation, 1000).stop):
        assert len(situation.workers) > situation.scaling.workers_max


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"workers_min": 4}, "at least 4 and at most 3 workers"),
        ({"workers_min": -1}, "at least -1"),
        ({"value": 0.4}, "QUEUE_DELAY needs at least 0.5"),
        ({"kind": "REQUEST_COUNT", "value": 0.5}, "REQUEST_COUNT needs at least 1"),
        ({"idle_timeout_s": 0.5}, "idle timeout of 0.5 s"),
        ({"value": float("nan")}, "QUEUE_DELAY"),
    ],
)
def test_what_no_scaler_could_follow_is_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidConfig, match=named):
        Scaling(**wrong)  # type: ignore[arg-type]
