"""Rates are kept whatever is asked and whenever."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.openai.errors import ApiError
from handler.rate_limits import Allowance, Limits, duration
from handler.token_bucket import TokenBucket

PER_MINUTE = 120
ASKED = st.lists(st.tuples(st.floats(0, 90), st.integers(1, 150)), max_size=60)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(ASKED)
def test_never_more_than_a_burst_and_what_flows_in(asked: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = TokenBucket(PER_MINUTE, clock)
    taken = [(0.0, 0)]
    for gap, amount in asked:
        clock.now += gap
        if bucket.take(amount):
            taken.append((clock.now, amount))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            given_out = sum(amount for _, amount in taken[first : last + 1])
            assert given_out <= PER_MINUTE + (taken[last][0] - taken[first][0]) * PER_MINUTE / 60 + 1e-6


@given(ASKED, st.integers(1, PER_MINUTE))
def test_the_wait_it_tells_is_enough_and_no_less_is(asked: list[tuple[float, int]], amount: int) -> None:
    clock = Clock()
    bucket = TokenBucket(PER_MINUTE, clock)
    for gap, asked_for in asked:
        clock.now += gap
        bucket.take(asked_for)
    wait_s = bucket.seconds_until(amount)
    if wait_s > 0.01:
        clock.now += wait_s - 0.01
        assert not bucket.take(amount)
        clock.now += 0.01
    clock.now += 1e-6
    assert bucket.take(amount)


@given(ASKED, st.data())
def test_what_is_given_back_can_be_taken_again_and_no_more(asked: list[tuple[float, int]], data: st.DataObject) -> None:
    bucket = TokenBucket(PER_MINUTE, Clock())
    held = PER_MINUTE
    for _, amount in asked:
        if bucket.take(amount):
            unused = data.draw(st.integers(0, amount))
            bucket.settle(unused)
            held += unused - amount
        assert bucket.level == held


def test_what_cannot_be_held_can_never_be_taken() -> None:
    bucket = TokenBucket(10, Clock())
    assert not bucket.take(11)
    assert math.isinf(bucket.seconds_until(11))


def test_use_beyond_what_was_there_is_a_debt() -> None:
    clock = Clock()
    bucket = TokenBucket(60, clock)
    bucket.settle(-90)
    assert bucket.level == -30
    assert bucket.seconds_until(1) == 31
    clock.now += 31
    assert bucket.take(1)


def test_a_new_rate_keeps_what_was_used() -> None:
    bucket = TokenBucket(60, Clock())
    assert bucket.take(50)
    bucket.resize(100)
    assert bucket.level == 50
    bucket.resize(20)
    assert bucket.level == -30


def test_a_reservation_gives_back_what_was_not_used_once() -> None:
    allowance = Allowance(Limits(tokens_per_minute=100), Clock())
    reservation = allowance.reserve(80)
    reservation.spend(30)
    reservation.settle()
    reservation.settle()
    assert allowance.headers()["x-ratelimit-remaining-tokens"] == "70"


def test_a_refusal_says_exactly_when() -> None:
    allowance = Allowance(Limits(requests_per_minute=8), Clock())
    for _ in range(8):
        allowance.take_request()
    with pytest.raises(ApiError) as caught:
        allowance.take_request()
    error = caught.value
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.headers == {"Retry-After": "8", "retry-after-ms": "7500"}
    assert "try again in 7.5s" in str(error)
    assert allowance.headers() == {
        "x-ratelimit-limit-requests": "8", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"
    }


def test_a_request_over_the_limit_is_not_to_be_tried_again() -> None:
    with pytest.raises(ApiError, match="may take 101 tokens") as caught:
        Allowance(Limits(tokens_per_minute=100), Clock()).reserve(101)
    assert caught.value.headers == {"x-should-retry": "false"}


def test_without_limits_nothing_is_said_and_nothing_kept() -> None:
    allowance = Allowance(Limits())
    allowance.take_request()
    allowance.reserve(10**9).settle()
    assert allowance.headers() == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0195, "20ms"), (1, "1s"), (1.5, "1.5s"), (59.9999, "1m0s"), (360, "6m0s"), (61.25, "1m1.25s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text
