"""The cold-start benchmark: what it sees of real processes, its arithmetic, and all of it at a tiny shape."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.cold_bars import bars, different_tokens, rate_rows, token_rows
from benchmarks.cold_loaders import LOADERS, touch
from benchmarks.cold_models import find
from benchmarks.cold_tables import token_table
from benchmarks.cold_tokens import OURS, enter
from benchmarks.environments import loader_packages
from benchmarks.first_byte import watch
from benchmarks.gpu_cold_start import bars as gpu_bars
from benchmarks.gpu_model import write_model
from benchmarks.make_model import make_model

ROOT = Path(__file__).parent.parent.parent
MEGABYTE = 1 << 20


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def a_token(side: str, first_token_s: float, **more: Any) -> dict[str, Any]:
    about = {"model": "135m", "lane": "resident", "side": side, "token_id": 7, "resident_fraction": 1.0}
    return {**about, "first_token_s": first_token_s, **more}


def a_rate(loader: str, gb_per_s: float, size: float = 3e8) -> dict[str, Any]:
    about = {"model": "135m", "lane": "resident", "loader": loader, "resident_fraction": 1.0}
    return {**about, "gb_per_s": gb_per_s, "bytes": size}


def held(rows: Sequence[Any]) -> dict[str, bool]:
    return {bar.what.partition(": ")[2]: bar.holds for bar in rows}


SEEN = """
import fcntl, termios, time
def seen():
    while fcntl.ioctl(1, termios.FIONREAD, bytes(4)) != bytes(4):
        time.sleep(0.01)
"""
"""A function that returns once all that was written to standard output is read, which is when all was noted of it."""


def test_the_first_byte_is_timed_and_not_the_end() -> None:
    seen = watch(program(f"{SEEN}time.sleep(0.3); print('a', flush=True); seen(); print(time.monotonic())"))
    first, then = seen.output.split()
    assert first == "a"
    assert 0.3 <= seen.first_byte_s <= float(then) - seen.started


def test_memory_is_watched_until_the_first_byte_only() -> None:
    size = 64 * MEGABYTE
    grow, tell = f"held = bytearray(b'x' * {size})", "print(1, flush=True); seen()"
    before = watch(program(f"{SEEN}{grow}; {tell}"), memory=True).peak_anonymous
    after = watch(program(f"{SEEN}{tell}; {grow}"), memory=True).peak_anonymous
    assert size < before < 3 * size
    assert 0 < after < size


def test_pages_of_a_mapped_file_are_not_memory_of_a_process_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 64 * MEGABYTE)
    mapping = f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1)"
    seen = watch(program(f"{SEEN}{mapping}; sum(m[::4096]); print(1, flush=True); seen()"), memory=True)
    assert 0 < seen.peak_anonymous < 32 * MEGABYTE


def test_a_process_that_fails_is_told_with_its_own_words() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        watch(program("print(1); raise SystemExit('no such model')"))
    with pytest.raises(RuntimeError, match="failed"):
        watch(program("pass"), memory=True)


def test_a_lane_is_entered_and_probed(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x" * 32 * MEGABYTE)
    (tmp_path / "empty").touch()
    assert enter("resident", tmp_path) == 1
    cold = enter("weights-cold", tmp_path)
    assert cold is None or cold < 0.02


@pytest.mark.parametrize("name", ["pilotlight mapped", "pilotlight streamed", "safetensors"])
def test_every_loader_brings_all_of_the_weights(name: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "tiny", "tiny")
    wanted = load_file(folder / "model.safetensors")
    loaded = list(LOADERS[name](folder, torch.device("cpu"))())
    assert sum(map(touch, loaded)) == sum(tensor.nbytes for tensor in wanted.values())
    assert sum(float(tensor.float().sum()) for tensor in loaded) == pytest.approx(
        sum(float(tensor.float().sum()) for tensor in wanted.values())
    )


def test_what_must_be_installed_is_pinned() -> None:
    assert all("==" in package for names in loader_packages().values() for package in names)
    assert set(loader_packages()) < set(LOADERS)


def test_a_model_is_made_once(tmp_path: Path) -> None:
    model = find("tiny", tmp_path)
    made = (model.baked / "boot.json").stat().st_mtime_ns
    assert find("tiny", tmp_path) == model
    assert (model.baked / "boot.json").stat().st_mtime_ns == made
    assert len(model.ids()) == 32


def test_a_large_model_is_written_whole_with_matrices_that_differ(tmp_path: Path) -> None:
    folder = write_model("tiny", tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = list(file.keys())
        up, gate = (file.get_tensor(f"model.layers.0.mlp.{name}_proj.weight").float() for name in ("up", "gate"))
        norm = file.get_tensor("model.norm.weight")
    assert len(names) == 2 + 2 * 9
    assert 0.018 < float(up.std()) < 0.022
    assert not torch.equal(up, gate)
    assert bool((norm == 1).all())


def test_a_first_token_is_held_against_its_own_runs_floor_and_against_openvino() -> None:
    ours = [a_token(OURS, first, torch_s=torch_s, floor_s=torch_s) for first, torch_s in (
        (1.1, 1.0), (1.4, 1.3), (2.9, 2.8)
    )]
    rows = token_rows([*ours, a_token("openvino-sdpa", 1.2), a_token("openvino-continuous", 1.5)])
    assert rows[0]["over_floor_s"]["median"] == pytest.approx(0.1)
    assert (rows[0]["first_token_s"]["lowest"], rows[0]["first_token_s"]["highest"]) == (1.1, 2.9)
    assert held(list(bars(rows, [], []))) == {
        "first token after its floor, s": True, "first token, s, beside openvino-sdpa": False,
        "first token, s, beside openvino-continuous": True,
    }
    late = token_rows([a_token(OURS, 1.3, torch_s=1.0, floor_s=1.0)])
    assert held(list(bars(late, [], []))) == {"first token after its floor, s": False}


def test_memory_is_held_against_imports_cache_and_a_tenth_of_the_weights() -> None:
    about = {"model": "135m", "lane": "resident", "may_take_bytes": 200e6}
    assert held(list(bars([], [about | {"peak_bytes": 199e6}], []))) == {"peak anonymous memory, MB": True}
    assert held(list(bars([], [about | {"peak_bytes": 201e6}], []))) == {"peak anonymous memory, MB": False}


def test_a_loader_is_held_against_dd_where_there_is_enough_to_load() -> None:
    slow = rate_rows([a_rate("dd", 5), a_rate("pilotlight mapped", 3.9), a_rate("safetensors", 1)])
    assert [row["share_of_dd"] for row in slow] == pytest.approx([1, 0.78, 0.2])
    assert held(list(bars([], [], slow))) == {"loader, share of dd": False}
    few = rate_rows([a_rate("dd", 5, 2e6), a_rate("pilotlight mapped", 1, 2e6)])
    assert list(bars([], [], few)) == []


def test_a_side_that_computed_something_else_is_named() -> None:
    runs = [a_token(OURS, 1), a_token("transformers", 3), a_token("openvino-sdpa", 1) | {"token_id": 8}]
    assert different_tokens(runs) == ["openvino-sdpa on 135m"]


def test_the_table_shows_median_spread_and_lane() -> None:
    console = Console(width=200, record=True)
    console.print(token_table(token_rows([a_token("transformers", 3.0), a_token("transformers", 4.0)])))
    line = next(line for line in console.export_text().splitlines() if "transformers" in line)
    assert all(word in line for word in ("135m", "resident", "100%", "3.500 (3.000 to 4.000)"))


def test_a_devices_boot_is_held_against_the_slower_of_its_links() -> None:
    boot = {"first_token_s": 5.0, "floor_s": 4.1, "deferred_from_token_s": 0.001}
    lane = {"boot": boot, "storage": {"gb_per_s": 5.0}, "loader": {"gb_per_s": 3.9}}
    figures = {"host_to_device_bytes_per_s": 50e9, "lanes": {"resident": lane}}
    assert [bar.holds for bar in gpu_bars(figures)] == [True, False, True]


@pytest.mark.timeout(400)
def test_the_whole_run_ends_at_a_tiny_shape(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.cold_start", "--quick", "--folder", str(tmp_path), "--json", str(file)]
    subprocess.run(command, check=True, cwd=ROOT)
    figures = json.loads(file.read_text())
    for run in figures["tokens"]:
        assert 0 < run["torch_s"] < run["first_token_s"]
        assert run["floor_s"] >= run["torch_s"]
    assert [run["lane"] for run in figures["tokens"]] == ["resident", "weights-cold"]
    for run in figures["memory"]:
        assert run["imports_bytes"] > 0
        assert run["peak_bytes"] > 0
    assert len(figures["loaders"]) == 2 * 4
    assert str(tmp_path) not in file.read_text()
