"""What a plan comes to, by hand-worked examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from warmup.actions import Look, Ping, Set, decide, put_back, watched
from warmup.endpoint_api import Change, Health, Scaling
from warmup.plan import Plan
from warmup.state import State, Touched

QUEUE = Scaling("QUEUE_DELAY", 0, 3, 5)
COUNT = Scaling("REQUEST_COUNT", 0, 3, None)
NOBODY = Health(0, 0, 10, 0, 0, 0)
WARM = replace(NOBODY, idle=1)
NOW = 1_000_000.0


def look(now: float = NOW, scaling: Scaling = QUEUE, health: Health = NOBODY) -> Look:
    return Look(now, scaling, health)


def acts(plan: Plan, state: State | None = None, **seen: Any) -> list[str]:
    """What is decided, in short."""
    found = decide(plan, look(**seen), state or State(), 10.0)
    return ["ping" if isinstance(action, Ping) else str(action.change.body()["workers"]) for action in found]


def test_the_platforms_own_idle_timeout_is_left_as_its_user_set_it() -> None:
    assert acts(Plan()) == []
    assert acts(Plan(), scaling=replace(QUEUE, idle_timeout=30)) == []


def test_an_idle_timeout_is_set_once_in_whole_seconds() -> None:
    assert acts(Plan(62.4)) == ["{'idleTimeout': 63}"]
    assert acts(Plan(62.4), scaling=replace(QUEUE, idle_timeout=63)) == []


def test_always_and_windows_hold_a_worker_and_ping_it_so_that_its_boot_is_a_warm_up() -> None:
    assert acts(Plan(always=True)) == ["{'min': 1}", "ping"]
    window = Plan(windows=((NOW - 5, NOW + 60),))
    assert acts(window) == ["{'min': 1}", "ping"]
    assert acts(window, now=NOW - 6) == []
    held = State(touched=Touched(0, 1))
    assert acts(window, held, scaling=replace(QUEUE, workers_min=1), health=WARM) == []
    assert acts(window, held, now=NOW + 60, scaling=replace(QUEUE, workers_min=1), health=WARM) == ["{'min': 0}"]


def test_a_user_who_keeps_workers_anyway_is_left_alone() -> None:
    assert acts(Plan(always=True), scaling=replace(QUEUE, workers_min=2), health=WARM) == []
    assert acts(Plan(every=60), scaling=replace(QUEUE, workers_min=2), health=WARM) == []
    assert acts(Plan(always=True), scaling=Scaling("QUEUE_DELAY", 0, 0, 5)) == []


def test_a_ping_is_for_a_moment_of_the_clock_and_none_gets_two() -> None:
    assert acts(Plan(every=300)) == ["ping"]
    moment = NOW // 300 * 300
    [ping] = decide(Plan(every=300), look(), State(), 10.0)
    assert isinstance(ping, Ping)
    assert acts(Plan(every=300), State(slot=ping.slot, pinged=moment + 1)) == []
    assert acts(Plan(every=300), State(slot="another", pinged=moment + 1)) == []
    assert acts(Plan(every=300), State(slot=ping.slot, pinged=moment + 1), now=moment + 300) == ["ping"]


def test_no_ping_while_a_job_runs_or_waits_or_the_idle_clock_outlasts_the_next() -> None:
    assert acts(Plan(every=300), health=replace(NOBODY, in_queue=1)) == []
    assert acts(Plan(every=300), health=replace(NOBODY, in_progress=1, running=1)) == []
    long = replace(QUEUE, idle_timeout=900)
    assert acts(Plan(900, every=300), State(active=NOW - 10), scaling=long, health=WARM) == []
    assert acts(Plan(900, every=300), State(active=NOW - 850), scaling=long, health=WARM) == ["ping"]


def test_pre_warming_holds_a_worker_for_a_stretch_of_idle_age() -> None:
    plan, state = Plan(prewarm=((600.0, 700.0),)), State(worked=NOW)
    assert acts(plan, state, now=NOW + 599) == []
    assert acts(plan, state, now=NOW + 600) == ["{'min': 1}", "ping"]
    held = replace(state, touched=Touched(0, 1))
    up = replace(QUEUE, workers_min=1)
    assert acts(plan, held, now=NOW + 700, scaling=up, health=WARM) == ["{'min': 0}"]
    assert acts(plan, held, now=NOW + 650, scaling=up, health=replace(WARM, in_progress=1)) == ["{'min': 0}"]
    assert acts(plan, State(), now=NOW + 650) == []


def test_beyond_the_longest_idle_timeout_the_worker_is_held_before_that_ends() -> None:
    plan, set_so = Plan(3600.0, ((3600.0, 7200.0),)), replace(QUEUE, idle_timeout=3600)
    assert acts(plan, State(worked=NOW), now=NOW + 3580, scaling=set_so, health=WARM) == []
    assert acts(plan, State(worked=NOW), now=NOW + 3591, scaling=set_so, health=WARM) == ["{'min': 1}"]


def test_where_the_scaler_has_no_idle_timeout_min_workers_stand_for_it() -> None:
    """RunPod refuses `idleTimeout` for queue endpoints with REQUEST_COUNT."""
    assert acts(Plan(60.0), State(worked=NOW - 30), scaling=COUNT, health=WARM) == ["{'min': 1}"]
    assert acts(Plan(60.0), State(worked=NOW - 61), scaling=COUNT) == []


def test_what_was_set_is_put_back_and_remembered_until_it_is_seen_to_be() -> None:
    state = State(touched=Touched(0, 1, 5, 60), changed=NOW)
    raised = replace(QUEUE, workers_min=1, idle_timeout=60)
    [back] = put_back(look(scaling=raised), state, "why")
    assert isinstance(back, Set)
    assert back.change == Change(0, 5)
    assert back.touched == state.touched
    assert watched(state, look(NOW + 1, raised), 0.0).touched == state.touched
    assert watched(state, look(NOW + 1), 0.0).touched == Touched()
    assert watched(state, look(NOW + 1), 20.0).touched == state.touched, "an unanswered change may yet take effect"
    assert watched(state, look(NOW + 21), 20.0).touched == Touched()


def test_what_the_user_sets_meanwhile_is_the_users() -> None:
    state = State(touched=Touched(0, 1, 5, 60))
    seen = watched(state, look(scaling=replace(QUEUE, workers_min=2, idle_timeout=60)), 0.0)
    assert seen.touched == Touched(None, None, 5, 60)


def test_pings_are_not_taken_for_users() -> None:
    state = State(done=10, open_pings=1, worked=NOW - 100, active=NOW - 100)
    waiting = watched(state, look(health=replace(NOBODY, in_queue=1)), 0.0)
    assert (waiting.worked, waiting.open_pings, waiting.active) == (NOW - 100, 1, NOW)
    over = watched(state, look(health=replace(WARM, done=11)), 0.0)
    assert (over.worked, over.open_pings) == (NOW - 100, 0)
    both = watched(state, look(health=replace(WARM, done=12)), 0.0)
    assert both.worked == NOW
