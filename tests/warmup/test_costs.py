"""Money, waiting, and how long things take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from warmup.costs import Costs, Restores, Seconds, Starts
from warmup.errors import InvalidPolicy, InvalidSetting, InvalidTrace
from warmup.history import History
from warmup.plan import Plan
from warmup.simulate.draws import draws
from warmup.simulate.durations import parse_seconds

ROOT = Path(__file__).parent.parent.parent


def test_score_is_money_and_waiting_as_money() -> None:
    costs = Costs(0.001, 5)
    assert costs.cost(100) == pytest.approx(0.1)
    assert costs.score(100, 20) == pytest.approx(0.1 + 0.001 * 5 * 20)
    assert Costs(0.001, 5, active_price=0.0005).cost(100, 40) == pytest.approx(0.06 + 0.02)


@pytest.mark.parametrize("amounts", [(-1, 5), (float("nan"), 5), (1, -1), (1, float("inf"))])
def test_amounts_that_are_none_are_refused(amounts: tuple[float, float]) -> None:
    with pytest.raises(InvalidSetting, match="from 0 to"):
        Costs(*amounts)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "lognormal:20", "lognormal:-1,1", "soon"])
def test_times_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidSetting):
        parse_seconds(text)


def test_times_from_a_distribution_and_a_file(tmp_path: Path) -> None:
    lognormal = parse_seconds("lognormal:20,0.3")
    assert lognormal.values[len(lognormal.values) // 2] == pytest.approx(20, rel=0.01)
    assert lognormal.mean == pytest.approx(20 * np.exp(0.3**2 / 2), rel=0.01)
    file = tmp_path / "boots"
    file.write_text("30\n10\n\n20\n")
    assert parse_seconds(str(file)).values == (10, 20, 30)
    file.write_text("30\nten\n")
    with pytest.raises(InvalidSetting, match="line 2: ten"):
        parse_seconds(str(file))


def test_a_start_is_a_restore_by_its_chance_at_that_idle_time() -> None:
    starts = Starts(Seconds.constant(20), Restores(Seconds.constant(2), (60, 300), (0.9, 0.5)))
    chance = draws(np.arange(4000, dtype=np.float64) + 0.5, 1)
    for idle, share in ((30, 0.9), (60, 0.9), (200, 0.5), (301, 0.0), (np.inf, 0.0)):
        length = starts.draw(chance, np.full(4000, idle))
        assert (length == 2).mean() == pytest.approx(share, abs=0.03)
        assert starts.expected(np.array([idle]))[0] == pytest.approx(20 - 18 * share)


def test_chance_is_even_and_follows_from_seed_and_moment() -> None:
    found = draws(1.7e9 + np.arange(10000) / 7, 3)
    assert found.mean(0) == pytest.approx([0.5, 0.5], abs=0.02)
    first, second = found.T - 0.5
    assert (first * second).mean() == pytest.approx(0, abs=0.005)
    assert (found == draws(1.7e9 + np.arange(10000) / 7, 3)).all()
    assert (found != draws(1.7e9 + np.arange(10000) / 7, 4)).any()


def test_a_history_is_in_order_and_its_past_is_a_view() -> None:
    history = History.of([30, 10, 20], [3, 1, 2])
    assert history.arrivals.tolist() == [10, 20, 30]
    assert history.services.tolist() == [1, 2, 3]
    assert history.before(20).arrivals.tolist() == [10]
    assert history.since(20).arrivals.tolist() == [20, 30]
    assert np.shares_memory(history.before(20).arrivals, history.arrivals)


def test_gaps_are_idle_seconds() -> None:
    """The second comes while the first is served, and all are done at 12."""
    assert History.of([0, 5, 20, 21], [12, 1, 4, 1]).gaps().tolist() == [8]


@pytest.mark.parametrize(("arrivals", "services"), [([1, np.nan], 0), ([1], -1), ([1, 2], [1])])
def test_arrivals_that_are_none_are_refused(arrivals: list[float], services: float) -> None:
    with pytest.raises(InvalidTrace):
        History.of(arrivals, services)


@pytest.mark.parametrize("fields", [
    {"idle_timeout": 0.5}, {"idle_timeout": 3601}, {"every": 0.5}, {"windows": ((5, 3),)}, {"prewarm": ((3, 9),)},
    {"prewarm": ((10, 20),), "always": True}, {"windows": ((1, 5), (4, 6))},
])
def test_plans_that_nobody_could_carry_out_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidPolicy):
        Plan(**fields)  # type: ignore[arg-type]


def test_stretches_that_follow_the_idle_timeout_prolong_it() -> None:
    assert Plan(60, prewarm=((60, 7200), (9000, 9900))).stays == (7200, ((9000, 9900),))


@pytest.mark.parametrize(
    "module", ["warmup.policy", "warmup.command", "warmup.policies.learned", "warmup.simulate.scaling"]
)
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    heavy = {"torch", "numpy", "duckdb", "matplotlib", "botocore", "httpx", "rich", "apscheduler"}
    program = f"import sys, {module}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
