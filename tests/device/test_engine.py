"""The engine on a real device: right answers, no waiting for the device in `launch`, no kernel compiled in service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.core import Samples
from engine.request import TokenLogprob
from engine.scheduler import Step
from image.demo_tasks import counting
from tests.engine.busy import WISHES, ask, busy_day

ON_DEVICE = EngineConfig("demo", device="cuda", dtype="float32", kv_memory=64 << 20, max_running=8)


def make_core(**settings: Any) -> Booted:
    """A core of the demo model on the device, its graphs recorded."""
    booted = boot_core(replace(ON_DEVICE, **settings))
    booted.core.finish_deferred()
    return booted


def graphs_of(booted: Booted) -> Any:
    return booted.core._runner._graphs  # type: ignore[attr-defined]


def compilations(booted: Booted) -> int:
    return int(booted.core._runner._operations._launcher.compilations)  # type: ignore[attr-defined]


Answer = list[tuple[int, TokenLogprob | None]]


def answers(booted: Booted, requests: int, **params: Any) -> list[Answer]:
    """Tokens and log probabilities of requests that start together."""
    told: dict[str, Answer] = {str(number): [] for number in range(requests)}
    for number in range(requests):
        ask(booted, 7 * number, 7 * number + 5 + number, str(number), **{"logprobs": 0, **params})
    while booted.core.has_work:
        for event in booted.core.step():
            if event.token_ids:
                told[event.request_id].append((event.token_ids[0], event.logprobs[0] if event.logprobs else None))
    return list(told.values())


def test_every_bucket_is_recorded() -> None:
    booted = make_core()
    assert booted.plan.graph_sizes == (1, 2, 4, 8)
    assert graphs_of(booted).recorded == (1, 2, 4, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("requests", [1, 3, 8])
def test_a_graph_computes_what_its_kernels_compute_one_by_one(requests: int, dtype: str) -> None:
    from_graphs = answers(make_core(dtype=dtype), requests)
    one_by_one = answers(make_core(dtype=dtype, graph_sizes=()), requests)
    tolerance = 1e-3 if dtype == "float32" else 0.1  # Another batch size may choose another program for a product.
    for ours, theirs in zip(from_graphs, one_by_one, strict=True):
        assert [token for token, _ in ours] == [token for token, _ in theirs]
        for (_, our), (_, their) in zip(ours, theirs, strict=True):
            assert our is not None
            assert their is not None
            assert our.logprob == pytest.approx(their.logprob, abs=tolerance)


@pytest.mark.parametrize("sizes", [None, ()], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_a_hundred_in_a_small_pool_each_count_for_themselves(overlap: bool, sizes: tuple[int, ...] | None) -> None:
    page_bytes = make_core(graph_sizes=()).plan.page_bytes
    booted = make_core(
        dtype="bfloat16", overlap=overlap, graph_sizes=sizes, max_running=64, kv_memory=70 * page_bytes
    )
    expected = {str(number): counting(number % 80, number % 80 + 12) for number in range(100)}
    for name in expected:
        ask(booted, int(name) % 80, int(name) % 80 + 12, name)
    texts = dict.fromkeys(expected, "")
    while booted.core.has_work:
        for event in booted.core.step():
            texts[event.request_id] += event.text
    assert booted.core.scheduler.preemptions > 0
    right = sum(texts[name] == exercise.answer for name, exercise in expected.items())
    assert right >= 99
    assert compilations(booted) == 0


def test_overlap_changes_no_token() -> None:
    in_turn, overlapped = (make_core(overlap=overlap, graph_sizes=(8,)) for overlap in (False, True))
    greedy = [wish for wish in WISHES if not wish.get("temperature")]
    for wish in greedy:
        told = [[[token for token, _ in one] for one in answers(core, 5, **wish)] for core in (in_turn, overlapped)]
        assert told[0] == told[1]


@pytest.mark.parametrize("sizes", [None, ()], ids=["graphs", "no graphs"])
def test_a_launch_never_waits_for_the_device(sizes: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    booted = make_core(overlap=True, graph_sizes=sizes)
    busy_day(booted)  # What is loaded and allocated at first may wait.
    runner = booted.core._runner

    def launch(step: Step, inner: Callable[[Step], Samples] = runner.launch) -> Samples:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return inner(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(runner, "launch", launch)
    told = busy_day(booted)
    assert all(lines[-1][2] is not None and lines[-1][2] != "error" for lines in told.values())
    assert compilations(booted) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_deterministic_mode_company_changes_no_bit(dtype: str) -> None:
    booted = make_core(dtype=dtype, deterministic=True, prefix_caching=False, max_running=100)
    together = answers(booted, 13)
    for number in (0, 5, 12):
        ask(booted, 7 * number, 7 * number + 5 + number, "alone", logprobs=0)
        alone: Answer = []
        while booted.core.has_work:
            alone += [(event.token_ids[0], event.logprobs[0]) for event in booted.core.step() if event.token_ids]
        assert alone == together[number]
