"""How long a client is told to wait: what waits over the rate at which it was worked off."""

from __future__ import annotations

import math

import pytest

from engine.backlog import LONGEST_S, SHORTEST_S, UNKNOWN_S, Backlog


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def worked(clock: Clock, *gaps: float) -> Backlog:
    """A backlog of which a request has ended after each gap, while others waited."""
    backlog = Backlog(clock)
    backlog.note(1, waiting=True)
    for gap in gaps:
        clock.now += gap
        backlog.note(1, waiting=True)
    return backlog


def test_what_waits_takes_its_number_over_the_rate(clock: Clock) -> None:
    assert worked(clock, 2.0).seconds(10) == 20
    assert worked(clock, 0.5, 0.5, 0.5, 0.5).seconds(30) in (15, 16)


def test_at_least_one_second_and_at_most_a_minute(clock: Clock) -> None:
    backlog = worked(clock, 1.0)
    assert backlog.seconds(0) == SHORTEST_S == 1
    assert backlog.seconds(10_000) == LONGEST_S == 60


def test_nothing_is_known_before_anything_that_waited_has_ended(clock: Clock) -> None:
    assert Backlog(clock).seconds(1000) == UNKNOWN_S


def test_time_in_which_nothing_waits_does_not_count(clock: Clock) -> None:
    backlog = worked(clock, 1.0)
    backlog.note(1, waiting=False)
    clock.now += 3600
    backlog.note(1, waiting=True)
    assert backlog.seconds(1) == 1
    clock.now += 1.0
    backlog.note(1, waiting=True)
    assert backlog.seconds(10) in range(5, 11)


def test_a_server_that_is_stuck_looks_slower_by_the_second(clock: Clock) -> None:
    backlog = worked(clock, 1.0)
    assert backlog.seconds(4) == 4
    clock.now += 9.0
    assert backlog.seconds(4) == 40


def test_old_news_fades(clock: Clock) -> None:
    backlog = worked(clock, *[0.1] * 100)
    clock.now += 30.0
    backlog.note(1, waiting=True)
    done = sum(math.exp(-0.1 * n / 30) for n in range(100)) / math.e + 1
    spent = 0.1 * (done - 1) + 30
    assert backlog.seconds(20) == math.ceil(20 * spent / done)
