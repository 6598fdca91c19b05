"""Penalised requests: what they said is counted on the device, so that nobody waits for the host to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.core import Sample, Samples
from engine.request import Request
from engine.scheduler import Step
from tests.engine.busy import ask

PENALTIES: list[dict[str, Any]] = [
    {"presence_penalty": 1.5, "frequency_penalty": 0.5}, {"repetition_penalty": 1.3, "temperature": 0.8, "seed": 1},
    {"frequency_penalty": -0.4, "logprobs": 2}, {"presence_penalty": -1.0, "logit_bias": {30: 4.0}, "min_tokens": 20},
]


def make_core(overlap: bool, pages: int = 200) -> Booted:
    one = boot_core(EngineConfig("demo", device="cpu", dtype="float32", page_size=4, kv_memory=1 << 20))
    return boot_core(EngineConfig(
        "demo", device="cpu", dtype="float32", page_size=4, kv_memory=pages * one.plan.page_bytes, overlap=overlap,
        max_running=8,
    ))


def penalised_day(booted: Booted) -> dict[str, list[int]]:
    """What each of some penalised requests says."""
    for number in range(8):
        wish = PENALTIES[number % len(PENALTIES)]
        ask(booted, 3 * number, 3 * number + 6, str(number), **{**wish, "ignore_eos": True, "max_tokens": 30})
    said: dict[str, list[int]] = {}
    while booted.core.has_work:
        for event in booted.core.step():
            said.setdefault(event.request_id, []).extend(event.token_ids)
    return said


def test_they_say_the_same_whether_the_host_knows_their_last_token_or_not() -> None:
    said = penalised_day(make_core(overlap=True))
    assert said == penalised_day(make_core(overlap=False))
    assert {len(tokens) for tokens in said.values()} == {30}


def test_a_preemption_changes_nothing_that_they_say() -> None:
    crowded = make_core(overlap=True, pages=20)
    assert penalised_day(crowded) == penalised_day(make_core(overlap=True))
    assert crowded.core.scheduler.preemptions > 0


def test_the_next_step_starts_before_their_last_tokens_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    booted = make_core(True)
    runner, order = booted.core._runner, list[str]()
    launch = runner.launch

    def noting(step: Step) -> Samples:
        order.append("launched")
        samples = launch(step)

        def known() -> Mapping[Request, Sample]:
            order.append("known")
            return samples()

        return known

    monkeypatch.setattr(runner, "launch", noting)
    ask(booted, 3, 9, "alone", **PENALTIES[0])
    while booted.core.has_work:
        booted.core.step()
    assert order[:7] == ["launched", *["launched", "known"] * 3]
