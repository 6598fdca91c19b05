"""Several workers: with one and no bound it is the vectorised replay, with more RunPod's scaler is at work."""

from __future__ import annotations

import numpy as np
import pytest

from warmup.costs import Costs, Seconds, Starts
from warmup.history import History
from warmup.policy import parse_policy
from warmup.simulate.outcome import Outcome, Period, carry_out
from warmup.simulate.scaling import Fleet, scale_out
from warmup.simulate.traffic import Traffic

COSTS = Costs(0.00031, 5, Starts(Seconds.constant(20)))


def scaled(times: list[float], fleet: Fleet, policy: str = "idle:60", seconds: float = 10) -> Outcome:
    history = History.of(times, seconds)
    return scale_out(parse_policy(policy), history, COSTS, Period.of(history), fleet)


@pytest.mark.parametrize("policy", ["never", "idle:60", "idle:300", "always", "cron:00:30-01:30", "fixed:600"])
def test_one_worker_that_serves_all_is_the_vectorised_replay(policy: str) -> None:
    times = np.cumsum(np.random.default_rng(1).exponential(70, 300)).round(2)
    history = History.of(times, 3)
    period = Period.of(history)
    one = carry_out(parse_policy(policy), history, Traffic.of(history), COSTS, period)
    other = scale_out(parse_policy(policy), history, COSTS, period, Fleet(1))
    assert other.cold_starts == one.cold_starts
    assert other.billed_s == pytest.approx(one.billed_s, abs=1)
    assert other.waited_s == pytest.approx(one.waited_s)


@pytest.mark.parametrize("policy", ["histogram", "learned", "idle:3600"])
def test_so_it_is_for_policies_that_learn(policy: str) -> None:
    """A job every 15 minutes, for which both pre-warm; the second half is replayed."""
    history = History.of(np.arange(1, 300) * 900 + np.random.default_rng(1).normal(0, 2, 299), 3)
    period = Period.of(history, 0.5)
    one = carry_out(parse_policy(policy), history, Traffic.of(history.since(period.begin)), COSTS, period)
    other = scale_out(parse_policy(policy), history, COSTS, period, Fleet(1))
    assert other.cold_starts == pytest.approx(one.cold_starts, abs=1)
    assert other.billed_s == pytest.approx(one.billed_s, rel=0.02)


def test_a_second_worker_comes_after_four_seconds_of_waiting() -> None:
    """Two requests at once, one a worker. The first worker starts at 0, the second at 4; both are ready 20 s later."""
    did = scaled([0, 0], Fleet(3, 1))
    assert did.cold_starts == 2
    assert did.waited_s == 20 + 24
    assert did.billed_s == 2 * (20 + 10 + 60)


def test_workers_max_is_kept() -> None:
    """Three requests at once for one worker, one after the other: only the start counts as waiting."""
    did = scaled([0, 0, 0], Fleet(1, 1))
    assert did.cold_starts == 1
    assert did.billed_s == 20 + 30 + 60
    assert did.waited_s == 60


def test_requests_share_a_worker_up_to_its_bound() -> None:
    assert scaled([0, 0, 0], Fleet(1, 2)).billed_s == 20 + 20 + 60
    assert scaled([0, 0, 0], Fleet(1, None)).billed_s == 20 + 10 + 60
