"""The load benchmark at a tiny shape: every part runs to its end, and a missed bar shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.load import LOADS, PARTS, falls, missed
from benchmarks.load_clients import Served
from benchmarks.make_model import make_model

ROOT = Path(__file__).parent.parent.parent


def levels(rates: dict[int, float]) -> list[dict[str, Any]]:
    return [{"requests": level, "output_tokens_per_s": rate} for level, rate in rates.items()]


def test_fewer_tokens_from_more_requests_is_a_fall() -> None:
    assert falls(levels({1: 10, 2: 20, 4: 19.9})) == []
    assert falls(levels({1: 10, 2: 20, 4: 15})) == ["4 requests: 15.0 tokens/s, fewer requests gave 20.0"]


def test_a_slow_slide_is_a_fall_too() -> None:
    slide = {1: 100.0, 2: 98.0, 4: 96.0}
    assert len(falls(levels(slide))) == 1


def test_thirty_two_requests_must_give_eight_times_one() -> None:
    assert falls(levels({1: 10, 32: 80})) == []
    assert falls(levels({1: 10, 32: 70})) == ["32 requests give 7.0 times the tokens/s of one"]


def test_bars_of_parts_that_ran_are_checked() -> None:
    assert missed({}) == []
    assert len(missed({"long-prompt": {"ratio": 1.3}, "shared-prefix": {"ratio": 3.0}})) == 2
    assert missed({"long-prompt": {"ratio": 1.1}, "shared-prefix": {"ratio": 5.0}}) == []


def test_gaps_are_between_neighbours() -> None:
    assert list(Served(0.0, [1.0, 3.0, 4.0]).gaps) == [2.0, 1.0]


def test_every_part_runs_at_a_tiny_shape(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "tiny", context=2048)
    out, curve = tmp_path / "load.json", tmp_path / "load.svg"
    command = ["benchmarks.load", str(model), "--quick", "--json", str(out), "--plot", str(curve)]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(PARTS) <= found.keys()
    assert [load["load"] for load in found["latency"]["loads"]] == list(LOADS)
    for load in found["latency"]["loads"]:
        assert 0 < load["ttft_s"]["p50"] <= load["ttft_s"]["p99"]
        assert 0 < load["itl_s"]["p50"] <= load["itl_s"]["p99"]
    assert all(level["output_tokens_per_s"] > 0 for level in found["concurrency"])
    assert found["long-prompt"]["ratio"] > 0
    prefix = found["shared-prefix"]
    assert prefix["cached_tokens"] == {"new": 0, "shared": prefix["prefix_tokens"]}, "whole pages"
    assert "measured" in curve.read_text()


def test_a_part_alone_keeps_what_the_file_holds(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "tiny", context=2048)
    out = tmp_path / "load.json"
    out.write_text('{"latency": "kept"}')
    command = ["benchmarks.load", str(model), "--quick", "--part", "shared-prefix", "--json", str(out)]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["latency"] == "kept"
    assert "shared-prefix" in found
    assert "concurrency" not in found
