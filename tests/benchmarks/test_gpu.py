"""The GPU's benchmark: its arithmetic, and the whole of it at a tiny shape on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import bars
from benchmarks.gpu_decode import idle_share, step_floor
from benchmarks.gpu_engine import parameters
from benchmarks.gpu_shapes import write_config
from engine.models import read_architecture


def test_a_known_shape_has_its_known_number_of_parameters(tmp_path: Path) -> None:
    assert parameters(read_architecture(write_config("llama-3.1-8b", tmp_path))) == pytest.approx(8.03e9, rel=0.001)
    assert parameters(read_architecture(write_config("qwen3-0.6b", tmp_path))) == pytest.approx(0.596e9, rel=0.001)


def test_a_small_batch_waits_for_bytes_and_a_large_one_for_arithmetic(tmp_path: Path) -> None:
    shape = read_architecture(write_config("llama-3.1-8b", tmp_path))
    rates = {"read_bytes_per_s": 4e12, "copy_bytes_per_s": 3e12, "operations_per_s": 8e14}
    alone = step_floor(shape, 1, 0, 2, rates)
    assert alone["bytes"] == pytest.approx(15.0e9, rel=0.01)
    assert alone["floor_s"] == pytest.approx(alone["bytes"] / 4e12)
    crowd = step_floor(shape, 1000, 0, 2, rates)
    assert crowd["floor_s"] == pytest.approx(alone["bytes"] * 1000 / 8e14)
    cached = step_floor(shape, 1, 1000, 2, rates)
    assert cached["bytes"] - alone["bytes"] == 1000 * 131072


def test_time_under_several_spans_counts_once() -> None:
    assert idle_share([(0, 4), (1, 2), (3, 5), (8, 10)]) == pytest.approx(0.3)
    assert idle_share([(2, 4), (4, 6)]) == 0


def test_a_missed_bar_is_told_from_one_that_holds() -> None:
    step = {"share_of_floor": 0.7, "device_idle_share": 0.01}
    figures = {
        "parity": {"exit_status": 0},
        "decode": {"decode": [{"batch": 1, **step}, {"batch": 64, **step}, {"batch": 256, **step}], "compilations": 1},
        "serving": {"a": {"pilotlight": {"output_tokens_per_s": 30}, "transformers": {"output_tokens_per_s": 10}}},
    }
    assert [bar.holds for bar in bars(figures)] == [True, False, True, True, False, True]


@pytest.mark.timeout(400)
def test_the_whole_run_ends_at_a_tiny_shape(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--no-parity"]
    subprocess.run([*command, "--json", str(tmp_path / "figures.json")], check=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [step["batch"] for step in figures["decode"]["decode"]] == [1, 2]
    assert figures["decode"]["compilations"] == 0
    assert figures["serving"]["tiny"].keys() == {"pilotlight", "transformers"}
    assert all(side["output_tokens_per_s"] > 0 for side in figures["serving"]["tiny"].values())
    assert figures["cold_start"]["lanes"].keys() == {"resident", "weights-cold"}
    assert all(lane["boot"]["deferred_from_token_s"] >= 0 for lane in figures["cold_start"]["lanes"].values())
    pictures = {picture.name for picture in tmp_path.glob("*.svg")}
    assert pictures == {"gpu_cold_start_resident.svg", "gpu_cold_start_weights-cold.svg"}


def test_without_a_device_the_full_run_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no GPU is at hand" in done.stderr
