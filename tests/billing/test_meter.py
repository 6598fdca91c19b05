"""Every millisecond of a worker's life is metered once, and every one of execution belongs to a request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.billing.meter import Amount, Meter, largest_remainder

A, B, C = "a", "b", "c"


def test_a_life_without_requests_is_boot_idle_and_drain() -> None:
    meter = Meter("boot")
    meter.enter("idle", 1_500)
    meter.enter("drain", 4_000)
    assert meter.cut(4_200).amounts == (
        Amount("boot", None, 0, 1_500), Amount("idle", None, 1_500, 2_500), Amount("drain", None, 4_000, 200)
    )
    assert meter.round_up() == Amount("rounding", None, 4_200, 800)


def test_a_request_alone_has_all_the_execution() -> None:
    meter = Meter("idle")
    meter.begin(A, warmup=False, at=100)
    meter.end(A, at=1_100)
    cut = meter.cut(1_200)
    assert cut.shares == {A: 1_000}
    assert Amount("execution", False, 100, 1_000) in cut.amounts
    assert Amount("idle", False, 1_100, 100) in cut.amounts


def test_requests_in_flight_together_have_equal_parts() -> None:
    meter = Meter("idle")
    meter.begin(A, warmup=False, at=0)
    meter.begin(B, warmup=False, at=600)
    meter.end(A, at=1_000)
    assert meter.cut(2_000).shares == {A: 600 + 200, B: 200 + 1_000}


def test_a_request_that_outlives_a_cut_goes_on_from_there() -> None:
    meter = Meter("idle")
    meter.begin(A, warmup=False, at=0)
    assert meter.cut(700).shares == {A: 700}
    meter.end(A, at=1_000)
    assert meter.cut(5_000).shares == {A: 300}
    assert meter.cut(6_000).shares == {}


def test_thirds_are_rounded_so_that_they_add_up() -> None:
    meter = Meter("idle")
    for name in (A, B, C):
        meter.begin(name, warmup=False, at=0)
    assert sorted(meter.cut(100).shares.values()) == [33, 33, 34]


def test_a_warm_up_marks_its_execution_and_the_idle_time_it_keeps_warm() -> None:
    meter = Meter("boot")
    meter.enter("idle", 1_000)
    meter.begin("ping", warmup=True, at=1_500)
    meter.end("ping", at=1_600)
    assert meter.cut(3_000).amounts == (
        Amount("boot", None, 0, 1_000), Amount("idle", None, 1_000, 500), Amount("idle", True, 1_600, 1_400),
        Amount("execution", True, 1_500, 100),
    )


def test_a_user_beside_a_warm_up_pays_for_the_users_part_alone() -> None:
    meter = Meter("idle")
    meter.begin("ping", warmup=True, at=0)
    meter.begin(A, warmup=False, at=0)
    amounts = meter.cut(1_000).amounts
    assert amounts == (Amount("execution", True, 0, 500), Amount("execution", False, 0, 500))


def test_execution_goes_on_while_the_worker_drains() -> None:
    meter = Meter("idle")
    meter.begin(A, warmup=False, at=0)
    meter.enter("drain", 400)
    meter.end(A, at=1_000)
    assert meter.cut(1_300).amounts == (Amount("drain", False, 1_000, 300), Amount("execution", False, 0, 1_000))


def test_a_clock_that_runs_backwards_adds_nothing() -> None:
    meter = Meter("idle")
    meter.begin(A, warmup=False, at=500)
    meter.end(A, at=200)
    assert meter.cut(500).shares == {A: 0}
    assert meter.now == 500


@given(st.lists(st.floats(0, 1e7), max_size=40))
def test_largest_remainder_is_exact_and_near(parts: list[float]) -> None:
    total = round(sum(parts))
    scaled = [part * total / sum(parts) for part in parts] if sum(parts) else parts
    shares = largest_remainder(scaled, total)
    assert sum(shares) == total
    assert all(abs(share - part) < 1.001 for share, part in zip(shares, scaled, strict=True))


@settings(deadline=None)
@pytest.mark.parametrize("in_flight", [1, 7, 256])
@given(steps=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255), st.booleans()), max_size=60))
def test_whatever_happens_everything_adds_up(in_flight: int, steps: list[tuple[int, int, bool]]) -> None:
    meter, now, living, ended = Meter("boot"), 0, set[str](), set[str]()
    amounts: list[Amount] = []
    shares: dict[str, int] = {}
    for step, (elapsed, who, cut) in enumerate(steps):
        now += elapsed
        name = f"{who % in_flight}"
        if name in living:
            living.remove(name)
            ended.add(name)
            meter.end(name, now)
        elif name not in ended:
            living.add(name)
            meter.begin(name, warmup=bool(step % 3), at=now)
        if cut:
            taken = meter.cut(now)
            amounts += taken.amounts
            shares = {who: shares.get(who, 0) + taken.shares.get(who, 0) for who in shares | taken.shares}
            ended.clear()
    last = meter.cut(now)
    amounts += last.amounts
    shares = {who: shares.get(who, 0) + last.shares.get(who, 0) for who in shares | last.shares}
    assert sum(amount.ms for amount in amounts) == now
    assert sum(shares.values()) == sum(amount.ms for amount in amounts if amount.phase == "execution")
    assert all(amount.ms > 0 for amount in amounts)
    assert (now + meter.round_up().ms) % 1000 == 0
