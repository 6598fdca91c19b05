"""The host's cost of a step: what is measured is a full batch that decodes, and a missed bar shows."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks.scheduler_cost import (
    BAR_SECONDS,
    BAR_SIZE,
    PROMPT,
    SIDES,
    Side,
    Summary,
    add_requests,
    core_cost,
    exponent,
    make_core,
    missed,
)
from engine.source import DEMO
from engine.text import Tokenizer

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(DEMO)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_each_step_decodes_a_token_of_every_request(tokenizer: Tokenizer, side: Side) -> None:
    core = make_core(8, 40, tokenizer, side.overlap)
    add_requests(core, 8, 40, side.text, tokenizer.vocab_size)
    core.step()
    core.step()
    tokens = [sum(len(event.token_ids) for event in core.step()) for _ in range(37)]
    assert tokens == [8] * 37


def test_steps_overlapped_take_one_more_and_no_empty_one(tokenizer: Tokenizer) -> None:
    steps = {}
    for overlap in (False, True):
        core = make_core(4, 40, tokenizer, overlap)
        add_requests(core, 4, 40, False, tokenizer.vocab_size)
        steps[overlap] = 0
        while core.has_work:
            core.step()
            steps[overlap] += 1
    assert steps == {False: 40, True: 41}


def test_pages_grow_and_the_prefix_cache_learns_them(tokenizer: Tokenizer) -> None:
    core = make_core(4, 40, tokenizer, overlap=False)
    add_requests(core, 4, 40, False, tokenizer.vocab_size)
    core.step()
    before = core.scheduler.pool.used
    for _ in range(38):
        core.step()
    assert core.scheduler.pool.used >= before + 4 * 2
    first = core.scheduler.running[0]
    assert first.published == first.computed // 16 > PROMPT[0] // 16


def test_the_parts_sum_to_the_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that goes on by a second each time that somebody looks."""
    monkeypatch.setattr("benchmarks.scheduler_cost.time.perf_counter", itertools.count(0.0).__next__)
    cost = core_cost(SIDES[1], 64, 30, tokenizer)
    assert sum(cost.parts.values()) == pytest.approx(cost.seconds)
    assert all(seconds > 0 for seconds in cost.parts.values())


def test_a_cost_that_grows_with_the_square_has_exponent_two() -> None:
    assert exponent([64, 256, 1024], [1.0, 16.0, 256.0]) == pytest.approx(2)


def test_a_slow_step_and_a_steep_curve_miss_the_bar() -> None:
    good = [Summary("text", size, BAR_SECONDS * size / BAR_SIZE, 0, 0, {}) for size in (64, 256, 1024)]
    assert missed(good) == []
    slow = [replace(found, median=found.median * 1.5) for found in good]
    assert [line.split(":")[0] for line in missed(slow)] == ["text"]
    steep = [*good[:2], replace(good[2], median=good[2].median * 4)]
    assert "batch **" in missed(steep)[0]


def test_the_command_writes_figures_and_a_plot(tmp_path: Path) -> None:
    command = ["benchmarks.scheduler_cost", "--sizes", "1", "4", "--repeats", "1", "--steps", "5"]
    written = ["--json", str(tmp_path / "cost.json"), "--plot", str(tmp_path / "cost.svg")]
    done = subprocess.run(
        [sys.executable, "-m", *command, *written], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "engine, every stream read" in (tmp_path / "cost.svg").read_text()
    assert '"requests": 4' in (tmp_path / "cost.json").read_text()
