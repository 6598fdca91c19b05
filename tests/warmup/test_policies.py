"""Policies on examples worked by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from warmup.costs import Costs, Restores, Seconds, Starts
from warmup.errors import InvalidPolicy
from warmup.history import History
from warmup.plan import Plan
from warmup.policies.histogram import Counts, Window
from warmup.policy import parse_policy

COSTS = Costs(0.00031, 5, Starts(Seconds.constant(20)))
NOTHING = History.of([])


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(("text", "plan"), [
    ("never", Plan(5)), ("idle:60", Plan(60)), ("always", Plan(5, always=True)),
    ("fixed:300", Plan(5, every=300, until=28 * 86400)), ("fixed:300:60", Plan(60, every=300, until=28 * 86400)),
])
def test_simple_policies(text: str, plan: Plan) -> None:
    policy = parse_policy(text)
    assert policy.name == text
    assert policy.plan(NOTHING, 0, COSTS) == plan


@pytest.mark.parametrize("text", [
    "", "often", "idle", "idle:", "idle:no", "idle:nan", "idle:-5", "idle:0", "idle:3601", "idle:inf",
    "fixed", "fixed:0", "fixed:60:9999",
    "always:1", "never:1", "learned:x", "histogram:4", "cron", "cron:8-18", "cron:Foo 08:00-18:00", "cron:25:00-26:00",
    "cron:08:00-18:00 Mars/Base", "cron:Mon 24:00-06:00", "cron:08:00-18:00;",
    "cron:Mon- 08:00-18:00", "cron:Mon, 08:00-18:00",
])
def test_what_is_no_policy_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


def windows(text: str, now: str, count: int) -> list[tuple[str, str]]:
    held = parse_policy(text).plan(NOTHING, at(now), COSTS).windows[:count]
    return [tuple(f"{datetime.fromtimestamp(edge, UTC):%a %d %H:%M}" for edge in pair) for pair in held]  # type: ignore[misc]


def test_a_timetable_is_by_the_clock_on_the_wall() -> None:
    """On Sunday, 29 March 2026, clocks in Berlin go from 2:00 to 3:00."""
    assert windows("cron:Fri,Mon 08:00-18:00 Europe/Berlin", "2026-03-27T00:00+00:00", 2) == [
        ("Fri 27 07:00", "Fri 27 17:00"), ("Mon 30 06:00", "Mon 30 16:00"),
    ]
    night = "cron:Sun 01:00-04:00 Europe/Berlin"
    assert windows(night, "2026-03-28T00:00+00:00", 1) == [("Sun 29 00:00", "Sun 29 02:00")]
    assert windows(night, "2026-10-24T00:00+00:00", 1) == [("Sat 24 23:00", "Sun 25 03:00")]


@pytest.mark.parametrize(("window", "held"), [
    ("02:30-05:00", [("Sun 29 01:00", "Sun 29 03:00")]),
    ("02:30-03:15", [("Sun 29 01:00", "Sun 29 01:15")]),
    ("01:30-02:30", [("Sun 29 00:30", "Sun 29 01:00")]),
    ("02:10-02:50", []),
])
def test_a_time_that_is_skipped_is_when_clocks_go_forward(window: str, held: list[tuple[str, str]]) -> None:
    """On 29 March 2026 Berlin goes from 2:00 to 3:00, which is 1:00 in UTC. Nothing is left of 2:10 to 2:50."""
    assert windows(f"cron:Sun {window} Europe/Berlin", "2026-03-28T12:00+00:00", 1) == held


@pytest.mark.parametrize(("window", "held"), [
    ("02:30-05:00", ("Sun 25 00:30", "Sun 25 04:00")), ("00:00-02:30", ("Sat 24 22:00", "Sun 25 01:30")),
    ("02:15-02:45", ("Sun 25 00:15", "Sun 25 01:45")),
])
def test_of_an_hour_that_comes_twice_both_are_held(window: str, held: tuple[str, str]) -> None:
    """On 25 October 2026 Berlin goes from 3:00 back to 2:00, which is 1:00 in UTC."""
    assert windows(f"cron:Sun {window} Europe/Berlin", "2026-10-24T12:00+00:00", 1) == [held]


def test_a_jump_at_midnight_and_one_over_a_whole_day() -> None:
    """Beirut went from 0:00 to 1:00 on 27 March 2022; Samoa had no 30 December 2011, a Friday."""
    assert windows("cron:Sat 22:00-00:30 Asia/Beirut", "2022-03-26T00:00+00:00", 1) == [
        ("Sat 26 20:00", "Sat 26 22:00")
    ]
    assert windows("cron:Fri,Sat 08:00-10:00 Pacific/Apia", "2011-12-30T00:00+00:00", 1) == [
        ("Fri 30 18:00", "Fri 30 20:00")
    ]


def test_windows_over_midnight_and_several_are_united() -> None:
    assert windows("cron:Mon 22:00-02:00; Tue 01:00-03:00; Tue 03:00-04:00", "2026-11-16T00:00+00:00", 2) == [
        ("Mon 16 22:00", "Tue 17 04:00")
    ]
    assert windows("cron:00:00-24:00", "2026-11-16T12:00+00:00", 1)[0][0] == "Mon 16 00:00"
    assert windows("cron:Sat-Mon 10:00-11:00", "2026-11-16T12:00+00:00", 3) == [
        ("Sat 21 10:00", "Sat 21 11:00"), ("Sun 22 10:00", "Sun 22 11:00"), ("Mon 23 10:00", "Mon 23 11:00"),
    ]


def window(minutes: list[float]) -> Window:
    counts = Counts()
    counts.count(np.array(minutes) * 60)
    return counts.window()


def edges(minutes: list[float]) -> list[float]:
    found = window(minutes)
    return [found.start, found.stop]


def test_histogram_keeps_four_hours_until_it_knows_ten_idle_times() -> None:
    assert window([30.5] * 9) == Window(0, 4 * 3600)
    assert edges([30.5] * 10) == pytest.approx([0.9 * 30 * 60, 1.1 * 31 * 60])


def test_histogram_takes_the_5th_percentile_rounded_down_and_the_99th_rounded_up() -> None:
    """100 idle times: 4 in minute 2, 94 in minute 10, 2 in minute 20."""
    assert edges([2.5] * 4 + [10.5] * 94 + [20.5] * 2) == pytest.approx([0.9 * 10 * 60, 1.1 * 21 * 60])
    assert edges([2.5] * 5 + [10.5] * 94 + [20.5]) == pytest.approx([0.9 * 2 * 60, 1.1 * 11 * 60])


def test_histogram_does_not_unload_where_the_head_is_zero() -> None:
    history = History.of(np.cumsum([30.0] * 5 + [100.0] * 15))
    stays, later = parse_policy("histogram").plan(history, 9e9, COSTS).stays
    assert stays == pytest.approx(1.1 * 2 * 60)
    assert later == ()


def test_histogram_of_even_counts_tells_nothing() -> None:
    """A standard deviation of less than twice the mean of the bins' counts."""
    assert window(list(np.arange(240) + 0.5)) == Window(0, 4 * 3600)
    fifty = [minute + 0.5 for minute in range(50) for _ in range(10)]  # 50 of 240 bins: 1.95 times the mean
    assert window(fifty) == Window(0, 4 * 3600)
    forty = [minute + 0.5 for minute in range(40) for _ in range(10)]  # 40 of 240: 2.24 times
    assert window(forty).stop == pytest.approx(1.1 * 40 * 60)


def test_histogram_predicts_idle_times_beyond_four_hours() -> None:
    assert edges([5.0] * 4 + [300.0] * 6) == pytest.approx([0.85 * 300 * 60, 1.15 * 300 * 60])
    assert window([5.0] * 5 + [300.0] * 5).start != pytest.approx(0.85 * 300 * 60)


def test_histogram_prewarms_after_it_has_unloaded() -> None:
    history = History.of(np.arange(20) * 630.0)  # ten and a half minutes
    plan = parse_policy("histogram").plan(history, 20 * 630.0, COSTS)
    assert plan.idle_timeout == 1
    assert list(plan.prewarm[0]) == pytest.approx([0.9 * 600, 1.1 * 660])


def test_learned_begins_with_what_a_start_costs() -> None:
    """T = C (1 + wait value): 20 s and a second of waiting worth five are 120 s."""
    assert parse_policy("learned").plan(NOTHING, 0, COSTS).idle_timeout == 120
    dear = Costs(0.00031, 500, Starts(Seconds.constant(20)))
    assert parse_policy("learned").plan(NOTHING, 0, dear).idle_timeout == 3600
    nine = History.of(np.arange(9) * 1000.0)
    assert parse_policy("learned").plan(nine, 9000, COSTS).idle_timeout == 120


@pytest.mark.parametrize(("gap", "wait_value", "least", "most"), [
    (10, 5, 60, 1e10),  # Requests come 10 s after each other, on the average and by chance: a worker is there for them.
    (3000, 0, 1, 1),  # Waiting is worth nothing, and staying 3000 s is dearer than a start of 20 s.
    (3000, 20, 1, 1),  # A start costs 20 + 20 x 20 s: still less than staying.
    (100, 20, 600, 1e10),  # The same start is dearer than staying 100 s.
])
def test_learned_weighs_starts_against_staying(gap: float, wait_value: float, least: float, most: float) -> None:
    history = History.of(np.cumsum(np.random.default_rng(1).exponential(gap, 2000)))
    plan = parse_policy("learned").plan(history, float(history.arrivals[-1]), Costs(0.00031, wait_value))
    assert not plan.prewarm
    assert least <= (1e9 if plan.always else plan.stays[0]) <= most


def test_learned_prewarms_for_a_rhythm() -> None:
    """A job every 15 minutes, give or take 2 s: up again before the next is due, and soon down if it does not come."""
    chance = np.random.default_rng(1)
    history = History.of(np.arange(1, 500) * 900 + chance.normal(0, 2, 499), 3)
    plan = parse_policy("learned").plan(history, 500 * 900, COSTS)
    [(start, stop)] = plan.prewarm
    assert plan.idle_timeout == 1
    assert 840 < start < 897 - 20
    assert 897 < stop < 920


def test_learned_pings_where_that_keeps_restores_likely() -> None:
    """A start is a restore of 2 s within 300 s of the last one, else a boot of 20 s."""
    starts = Starts(Seconds.constant(20), Restores(Seconds.constant(2), (300.0,), (1.0,)))
    history = History.of(np.cumsum(np.random.default_rng(1).exponential(900, 2000)), 3)
    plan = parse_policy("learned").plan(history, float(history.arrivals[-1]), Costs(0.00031, 20, starts))
    assert plan.every == 300
    assert parse_policy("learned").plan(history, float(history.arrivals[-1]), Costs(0.00031, 20)).every is None


def test_learned_goes_by_the_hour_where_that_has_proved_better() -> None:
    """Forty days with a request every 100 s from 8 to 18 and every 2400 s at night; a start is worth 420 s."""
    chance = np.random.default_rng(2)
    times = np.cumsum(chance.exponential(100, 40 * 864))
    times = times[((times // 3600 % 24 >= 8) & (times // 3600 % 24 < 18)) | (chance.random(times.size) < 100 / 2400)]
    history, policy, costs = History.of(times, 3), parse_policy("learned"), Costs(0.00031, 20)

    def stays(hour: float) -> float:
        now = 38 * 86400 + hour * 3600
        plan = policy.plan(history.before(now), now, costs)
        return 1e9 if plan.always else plan.stays[0]

    assert stays(3) <= 60
    assert stays(13) >= 600


def test_a_plan_follows_from_history_and_clock_alone() -> None:
    """One who has been asked all along says the same as one who is asked for the first time."""
    chance = np.random.default_rng(3)
    history = History.of(np.cumsum(chance.exponential(200, 3000)), 3)
    for name in ("learned", "histogram"):
        old = parse_policy(name)
        for now in np.linspace(1000, float(history.arrivals[-1]), 40):
            known = history.before(float(now))
            assert old.plan(known, float(now), COSTS) == parse_policy(name).plan(known, float(now), COSTS)


def test_a_policy_that_is_asked_about_another_history_forgets_the_first() -> None:
    policy, one, other = parse_policy("learned"), History.of(np.arange(300) * 10.0), History.of(np.arange(300) * 900.0)
    policy.plan(one, 3000, COSTS)
    assert policy.plan(other, 270000, COSTS) == parse_policy("learned").plan(other, 270000, COSTS)
