"""The budget is never exceeded: whatever users do, whatever fails, wherever the warmer dies, with two of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.warmup.warmers import TICK, make_settings, make_warmer
from tests.warmup.world import Killed, World
from warmup.guard import Budget, Guard, Spending
from warmup.settings import Settings
from warmup.warmer import Warmer

POLICIES = ("fixed:60", "fixed:30", "idle:40", "always", "cron:Sun 00:01-00:06 UTC; Sat 23:56-23:58 UTC")
EXACT = 1e-9


class Budgeted(RuleBasedStateMachine):
    """Two warmers of one endpoint share a folder; the world keeps the true account."""

    @initialize(
        policy=st.sampled_from(POLICIES), day=st.sampled_from([0.0, 0.02, 0.15, 0.4, 10.0]),
        month=st.sampled_from([0.1, 0.5, 10.0]), boot_s=st.sampled_from([1.0, 12.0, 30.0]),
    )
    def begin(self, policy: str, day: float, month: float, boot_s: float) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(boot_s=boot_s)
        self.settings = make_settings(Path(self.folder.name), policy, budget_day=day, budget_month=month)
        self.every = float(policy.split(":")[1]) if policy.startswith("fixed") else None
        self.warmers: list[Warmer] = [self.born(), self.born()]

    def born(self) -> Warmer:
        return make_warmer(self.settings, self.world)

    def look(self) -> None:
        for place, warmer in enumerate(self.warmers):
            try:
                warmer.tick(self.world.now)
            except Killed:
                self.warmers[place] = self.born()

    def live(self, seconds: int) -> None:
        for _ in range(seconds // TICK):
            self.look()
            self.world.advance(TICK)

    @rule(seconds=st.integers(1, 9))
    def time_passes(self, seconds: int) -> None:
        self.live(seconds * TICK)

    @rule(count=st.integers(1, 4), after=st.integers(0, 9))
    def users_come(self, count: int, after: int) -> None:
        self.look()
        self.world.advance(after)
        for _ in range(count):
            self.world.arrive()
        self.world.advance(TICK - after)

    @rule(seconds=st.integers(1, 4), deaf=st.booleans())
    def the_api_fails(self, seconds: int, deaf: bool) -> None:
        self.world.down, self.world.deaf = not deaf, deaf
        self.live(seconds * TICK)
        self.world.down = self.world.deaf = False
        self.look()

    @rule(after=st.integers(0, 8), gone=st.integers(0, 40))
    def the_warmer_is_killed(self, after: int, gone: int) -> None:
        self.world.kill_in = after
        self.look()
        self.world.kill_in = None
        self.warmers = [self.born(), self.born()]
        self.world.advance(gone)
        self.look()

    @invariant()
    def the_budget_holds(self) -> None:
        if not hasattr(self, "world"):
            return
        settings, spent = self.settings, self.world.spent
        assert all(dollars <= settings.budget_day + EXACT for dollars in spent.values()), dict(spent)
        assert sum(spent.values()) <= settings.budget_month + EXACT

    @invariant()
    def no_moment_gets_two_pings(self) -> None:
        if getattr(self, "every", None):
            assert max(self.world.pings_by(self.every or 1).values(), default=0) <= 1

    def teardown(self) -> None:
        """Whoever comes last leaves the endpoint as it was."""
        if not hasattr(self, "world"):
            return
        self.world.advance(40)
        for _ in range(2):
            last = self.born()
            last.tick(self.world.now)
            last.close(self.world.now)
            self.world.advance(TICK)
        assert (self.world.least, self.world.idle) == (0, 5)
        self.folder.cleanup()


Budgeted.TestCase.settings = settings(
    max_examples=50, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBudgeted = Budgeted.TestCase


def test_with_money_the_warmer_warms(tmp_path: Path) -> None:
    """The property above would hold for one that does nothing."""
    world = World()
    warmer = make_warmer(make_settings(tmp_path, "always"), world)
    for _ in range(60):
        warmer.tick(world.now)
        world.advance(TICK)
    assert world.least == 1
    assert sum(world.spent.values()) == pytest.approx(0.6, rel=0.05)
    assert warmer.state.spending.ever == pytest.approx(0.6 + 0.07, rel=0.15)


def test_a_ping_to_a_worker_that_may_be_about_to_go_is_booked_as_one_that_starts_another(tmp_path: Path) -> None:
    world = World(boot_s=30.0)
    warmer = make_warmer(make_settings(tmp_path, "fixed:60", budget_day=0.02), world)
    world.arrive()
    world.advance(36)
    assert world.health().ready == 1
    tick = warmer.tick(world.now)
    assert tick.refused == ("the budget does not allow it: ping: one every 60 s",)
    world.advance(60)
    assert world.spent == {}


def test_a_ping_to_a_worker_that_min_workers_keep_is_booked_as_one_to_a_warm_worker(tmp_path: Path) -> None:
    world = World(least=1)
    world.advance(20)
    warmer = make_warmer(make_settings(tmp_path, "fixed:60", budget_day=0.02), world)
    assert warmer.tick(world.now, ping=True).did
    assert warmer.state.ping_booked == pytest.approx(0.008)


def test_a_ping_is_booked_at_its_most_and_settled_at_what_it_took() -> None:
    guard = Guard(Budget(day=1.0), price=0.001, ahead_s=70, boot_limit_s=420)
    booked = guard.ping_cost(is_warm=False, idle_s=5)
    assert booked == pytest.approx(0.428)
    spending = guard.roll(Spending(), 0.0, 0.0).book(booked)
    assert guard.settle_ping(spending, booked, lasted_s=12, idle_s=5).today == pytest.approx(0.018)
    assert guard.ping_cost(is_warm=True, idle_s=5) == pytest.approx(0.008)


def test_what_is_set_aside_at_midnight_counts_for_both_days() -> None:
    guard = Guard(Budget(day=1.0), price=0.001, ahead_s=70, boot_limit_s=420)
    evening = guard.hold(guard.roll(Spending(), 86_390.0, 0.0), 86_390.0, 1)
    assert evening is not None
    assert evening.today == pytest.approx(0.07)
    assert guard.roll(evening, 86_400.0, 0.0).today == pytest.approx(0.06)


def test_a_clock_that_is_set_back_gives_no_new_budget() -> None:
    spending = Spending().at(200_000.0, 0.0).book(0.7)
    assert spending.at(100_000.0, 0.0).today == pytest.approx(0.7)


def test_settings_name_their_faults() -> None:
    with pytest.raises(Exception, match="which endpoint"):
        Settings()
