"""Workers that are replayed side by side do what each would do alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warmup.test_replay import TIMES, costs
from warmup.costs import Costs
from warmup.history import History
from warmup.plan import Plan
from warmup.policies.forecast import Forecasts
from warmup.policies.trials import several
from warmup.simulate.abreast import Abreast, Several
from warmup.simulate.replay import Replay
from warmup.simulate.traffic import Traffic

STAYS = (1.0, 2.5, 5.0, 30.0, 100.0, 3600.0)


def rows(lives: Several, worker: int) -> list[list[float]]:
    """Beginning, end, first work and waiting of each life that was not empty."""
    mine = (lives.worker == worker) & (lives.stopped > lives.began)
    return np.stack([lives.began, lives.stopped, lives.asked, lives.waited], 1)[mine].tolist()


@settings(max_examples=100, deadline=None)
@given(
    times=TIMES, services=st.sampled_from([[0.0], [3.0], [0.5, 40.0, 3.0]]), costs=costs(),
    cuts=st.lists(st.integers(1, 1100), min_size=1, max_size=4, unique=True),
)
def test_each_worker_lives_as_it_would_alone(
    times: list[float], services: list[float], costs: Costs, cuts: list[int]
) -> None:
    history = History.of(times, np.resize(services, len(times)))
    together, alone = Abreast(costs, np.array(STAYS)), [Replay(Traffic.of(history), costs) for _ in STAYS]
    now = 1_700_000_000.0
    for until in (now + cut for cut in sorted(cuts)):
        traffic = Traffic.of(history.since(now))
        found = together.advance(traffic, int(traffic.times.searchsorted(until)))
        for worker, (stays, replay) in enumerate(zip(STAYS, alone, strict=True)):
            replay.go_on(traffic)
            replay.advance(Plan(stays), now, until)
            lives = several(replay)
            expected = [] if lives is None else rows(lives, 0)
            assert np.array(rows(found, worker)) == pytest.approx(np.array(expected), abs=1e-5)
        now = until


def test_many_hours_at_once_teach_what_they_teach_one_by_one() -> None:
    losses = np.random.default_rng(0).gamma(1, 100, (24, 5))[np.arange(400) % 24]
    losses *= np.random.default_rng(1).gamma(3, 1, losses.shape)
    once, hourly = Forecasts(5, 5), Forecasts(5, 5)
    once.learn(470_000, losses)
    for hour, one in enumerate(losses, 470_000):
        hourly.learn(hour, one[None])
    assert once.hours == hourly.hours == 400
    assert once.best == hourly.best > 0
    assert once.middle(losses[0]) == hourly.middle(losses[0])
    for way in range(8):
        assert [once.choose(way, 470_400 + hour) for hour in range(24)] == [
            hourly.choose(way, 470_400 + hour) for hour in range(24)
        ]
