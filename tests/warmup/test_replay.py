"""The vectorised replay is the plain one, for any traffic, plans and costs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.warmup import reference
from warmup.costs import Costs, Restores, Seconds, Starts
from warmup.history import History
from warmup.plan import Plan
from warmup.simulate.outcome import Period, carry_out
from warmup.simulate.traffic import Traffic

TIMES = st.lists(st.integers(0, 4000).map(lambda tenths: 1_700_000_000 + tenths / 4), min_size=1, max_size=60)


@dataclass(frozen=True)
class Scripted:
    """Plans in turns, each for its time."""

    plans: tuple[tuple[float, Plan], ...]
    begin: float
    name: str = "scripted"

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        assert not len(history) or history.arrivals[-1] < now
        ends = self.begin
        for length, plan in self.plans:
            ends += length
            if now < ends:
                return Plan(plan.idle_timeout, plan.prewarm, plan.every, plan.windows, plan.always, until=ends)
        return self.plans[-1][1]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    idle = draw(st.sampled_from([1.0, 2.5, 5.0, 30.0, 100.0]))
    kind = draw(st.sampled_from(["idle", "prewarm", "pings", "windows", "both", "always"]))
    edges = sorted(draw(st.lists(st.integers(0, 400), min_size=4, max_size=4, unique=True)))
    if kind == "prewarm":
        first, second, third, fourth = (idle + edge for edge in edges)
        return Plan(idle, prewarm=((first, second), (third, fourth)))
    every = draw(st.sampled_from([10.0, 33.0, 60.0])) if kind in ("pings", "both") else None
    first, second, third, fourth = (1_700_000_000.0 + 2 * edge for edge in edges)
    windows = ((first, second), (third, fourth)) if kind in ("windows", "both") else ()
    return Plan(idle, every=every, windows=windows, always=kind == "always")


@st.composite
def costs(draw: st.DrawFn) -> Costs:
    cold = Seconds(tuple(draw(st.sampled_from([[20.0], [0.0], [7.25], [5.0, 20.0, 60.0]]))))
    restores = Restores(Seconds((1.0, 3.0)), (30.0, 120.0), (0.9, 0.4)) if draw(st.booleans()) else None
    return Costs(0.0003, 5, Starts(cold, restores), ping_s=draw(st.sampled_from([0.0, 0.5])))


@settings(max_examples=150, deadline=None)
@given(
    times=TIMES, services=st.one_of(st.sampled_from([0.0, 3.0]), st.lists(st.sampled_from([0.0, 0.5, 3.0, 40.0]))),
    script=st.lists(st.tuples(st.sampled_from([40.0, 200.0, 333.0]), plans()), min_size=1, max_size=4), costs=costs(),
    train=st.sampled_from([0.0, 0.5]), seed=st.integers(0, 3),
)
def test_vectorised_is_plain(
    times: list[float], services: list[float] | float, script: list[tuple[float, Plan]], costs: Costs, train: float,
    seed: int,
) -> None:
    took = services
    if isinstance(services, list):
        took = [(*services, 1.0)[number % (len(services) + 1)] for number in range(len(times))]
    history = History.of(times, took)
    period = Period.of(history, train)
    traffic = Traffic.of(history.since(period.begin))
    policy = Scripted(tuple(script), period.begin)
    plain = reference.replay(policy, history, costs, period.begin, seed)
    told = carry_out(policy, history, traffic, costs, period, seed)
    assert told.cold_starts == plain.cold
    assert told.billed_s == pytest.approx(plain.billed)
    assert told.waited_s == pytest.approx(plain.waited, abs=1e-4)
