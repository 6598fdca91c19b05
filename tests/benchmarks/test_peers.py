"""The comparison runs to its end at a tiny shape, both sides do the same work, and its table says what the runs say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.environments import packages
from benchmarks.make_model import make_model
from benchmarks.make_workload import make_workload
from benchmarks.peers import OURS, PEERS, Task, agreement, measure, run, summary, table


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("peers")
    model = make_model(folder / "model", "tiny")
    work = make_workload(folder / "workload.jsonl", requests=4, prompt=(3, 20), output=(2, 9), vocabulary=2048)
    return Task(model, work, "float32", 2, folder)


def tokens_file(file: Path, outputs: list[list[int]]) -> Path:
    file.write_text("".join(json.dumps(tokens) + "\n" for tokens in outputs))
    return file


def a_run(side: str, rate: float, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"side": side, "dtype": dtype, "output_tokens_per_s": rate, **more}


@pytest.mark.timeout(400)
def test_every_way_of_transformers_does_the_work_that_we_do(task: Task) -> None:
    wanted = sum(json.loads(line)["max_tokens"] for line in task.workload.read_text().splitlines())
    sides = [OURS, "transformers-continuous", "transformers-static", "transformers-single"]
    runs = measure([task], sides, 1, {"transformers": Path(sys.executable)})
    assert [run["side"] for run in runs] == sides
    for figures in runs:
        assert figures["output_tokens"] == wanted
        assert figures["output_tokens_per_s"] == pytest.approx(wanted / figures["seconds"])
        assert figures["load_seconds"] > 0
        assert figures["equal_tokens"] > 0.5, f"{figures['side']} computes something else"


def test_the_sides_take_turns(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.run", lambda command: {"command": command})
    sides = ["openvino", "llama.cpp"]
    interpreters = {"openvino": Path("/o/python"), "llama_cpp": Path("/l/python")}
    runs = measure([task], sides, 2, interpreters, ["taskset", "-c", "0"])
    assert [(run["round"], run["side"]) for run in runs] == [(turn, side) for turn in (0, 1) for side in sides]
    assert all(run["command"][:3] == ["taskset", "-c", "0"] for run in runs)
    assert runs[0]["command"][3] == "/o/python"


def test_both_ways_of_openvino_read_one_conversion(task: Task) -> None:
    python = {"openvino": Path("python")}
    once, again = (task.command(side, python) for side in ("openvino", "openvino-u8-cache"))
    assert once[once.index("--converted") + 1] == again[again.index("--converted") + 1]
    assert "u8" not in once
    assert "u8" in again


def test_every_peer_has_a_script_and_an_environment() -> None:
    assert {peer.environment for peer in PEERS.values()} == packages().keys()
    assert all(peer.script.exists() for peer in PEERS.values())
    assert all("==" in package for names in packages().values() for package in names)


def test_a_side_that_fails_says_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="no such peer"):
        run([sys.executable, "-c", "raise SystemExit('no such peer')"])


def test_agreement_counts_tokens_before_each_requests_first_difference(tmp_path: Path) -> None:
    ours = tokens_file(tmp_path / "ours", [[1, 2, 3, 4], [5, 6], [7, 8]])
    theirs = tokens_file(tmp_path / "theirs", [[1, 2, 9, 4], [5, 6], [0, 8]])
    assert agreement(ours, ours) == 1
    assert agreement(ours, theirs) == (2 + 2 + 0) / 8


def test_the_summary_is_medians_and_ratios_to_them_within_a_dtype() -> None:
    runs = [a_run(OURS, rate, equal_tokens=1.0) for rate in (90, 120, 100)]
    runs += [a_run("openvino", rate, equal_tokens=equal) for rate, equal in ((50, 0.9), (40, 0.8), (60, 1.0))]
    runs += [a_run("openvino", 10, dtype="bfloat16")]
    ours, theirs, alone = summary(runs)
    assert (ours["median"], ours["lowest"], ours["highest"], ours["ours_is"]) == (100, 90, 120, 1)
    assert (theirs["median"], theirs["ours_is"], theirs["equal_tokens"]) == (50, 2, 0.8)
    assert (alone["dtype"], alone["ours_is"], alone["equal_tokens"]) == ("bfloat16", None, None)


def test_the_table_shows_each_side_with_how_many_times_faster_we_are() -> None:
    console = Console(width=200, record=True)
    console.print(table(summary([a_run(OURS, 100, equal_tokens=1.0), a_run("openvino", 40, equal_tokens=0.875)])))
    line = next(line for line in console.export_text().splitlines() if "openvino" in line)
    assert all(figure in line for figure in ("40.0", "2.50 x", "87.5%"))
