"""Which policy is carried out: the one that was asked for, unless a worker that is always up is cheaper."""

from __future__ import annotations

import pytest

from warmup.costs import Costs
from warmup.history import History
from warmup.planner import COMPARED_EVERY_S, Planner

DAY_S = 86400.0
BEGAN = 1_750_000_000.0
DENSE = History.of([BEGAN + 20.0 * number for number in range(4320)], 1.0)
"""A day of a request every 20 s."""
ENDED = BEGAN + DAY_S
COSTS = Costs(0.001, 5.0)
WITH_DISCOUNT = Costs(0.001, 5.0, active_price=0.0007)


@pytest.mark.parametrize("policy", ["idle:300", "idle:3600", "learned"])
@pytest.mark.parametrize("silence_s", [10.0, 3600.0, 3 * DAY_S])
def test_keeping_a_busy_worker_is_not_dearer_than_having_it_always(policy: str, silence_s: float) -> None:
    planner = Planner(policy)
    plan = planner.plan(DENSE, COSTS, ENDED + silence_s, is_news=True)
    assert (planner.name, planner.why) == (policy, "")
    assert not plan.always or policy == "learned"


def test_flex_seconds_all_day_are_replaced_by_an_active_worker_that_is_cheaper() -> None:
    planner = Planner("idle:300")
    plan = planner.plan(DENSE, WITH_DISCOUNT, ENDED, is_news=True)
    assert planner.name == "always"
    assert planner.why.startswith("idle:300 would have cost $")
    assert plan.always


@pytest.mark.parametrize("silence_s", [DAY_S, 8 * DAY_S])
def test_it_comes_back_to_the_asked_policy_when_nobody_calls_any_more(silence_s: float) -> None:
    planner = Planner("idle:300")
    planner.plan(DENSE, WITH_DISCOUNT, ENDED, is_news=True)
    plan = planner.plan(DENSE, WITH_DISCOUNT, ENDED + silence_s, is_news=False)
    assert (planner.name, planner.why, plan.always) == ("idle:300", "", False)


def test_it_is_compared_once_an_hour() -> None:
    planner = Planner("idle:300")
    planner.plan(DENSE.before(BEGAN + 100), WITH_DISCOUNT, ENDED, is_news=True)
    planner.plan(DENSE, WITH_DISCOUNT, ENDED + COMPARED_EVERY_S - 1, is_news=True)
    assert planner.name == "idle:300"
    planner.plan(DENSE, WITH_DISCOUNT, ENDED + COMPARED_EVERY_S, is_news=True)
    assert planner.name == "always"
