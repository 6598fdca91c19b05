"""`pilotlight boot`: fresh processes, what is told of them, and the lanes they are measured in."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engine.boot_comparison import NotComparable, compare, read_earlier
from engine.boot_runs import Measurement, Run, Task, Weights, measure
from engine.boot_words import closing, critical_path
from engine.lanes import COLD, LaneNotReached, Residency, evict, prepare, residency
from engine.source import DEMO
from engine.timeline import Span
from engine.waterfall import draw
from engine.waterfall_rows import rows
from engine.waterfall_svg import svg
from tests.handler.processes import eventually, serving

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, str(ROOT / "pilotlight.py"), "boot"]
SMALL = "--kv-memory=64MiB"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boot")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What two boots of the demo model tell; the JSON and the picture stay in the folder."""
    done = run("--json", "-n", "2", "--svg", str(folder / "boot.svg"), SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    (folder / "boot.json").write_text(done.stdout)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def span(told: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [span for span in told["spans"] if span["name"] == name]
    assert isinstance(found, dict)
    return found


def test_the_boot_is_told_from_exec_to_the_first_token(told: dict[str, Any]) -> None:
    assert 0 < span(told, "import torch")["end_s"] < told["ready_s"] < told["first_token_s"]
    assert told["start_kind"] == "fresh"
    assert (told["lane"], told["device"], told["model"]) == ("as-is", "cpu", "demo")
    assert told["weights"]["bytes"] == (DEMO / "model.safetensors").stat().st_size
    assert told["weights"]["seconds"] > 0
    assert told["weights"]["gb_per_s"] > 0
    assert 0 <= told["weights"]["resident_fraction"] <= 1


def test_every_stage_is_a_span_in_its_place(told: dict[str, Any]) -> None:
    names = ["interpreter", "import torch", "device", "kernels", "plan", "ready", "first prefill", "first token"]
    starts = [span(told, name)["start_s"] for name in names]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert span(told, "first prefill")["detail"]["tokens"] == 32
    assert span(told, "first token")["end_s"] <= told["first_token_s"] + 0.011
    assert span(told, "deferred")["start_s"] >= span(told, "first token")["end_s"]
    assert span(told, "weights model.safetensors")["detail"]["bytes"] == told["weights"]["bytes"]


def test_of_resident_weights_the_import_of_torch_is_the_floor(told: dict[str, Any]) -> None:
    if told["weights"]["resident_fraction"] < 1:
        pytest.skip("the machine has dropped the demo model from memory")
    assert told["floor_s"] == pytest.approx(span(told, "import torch")["end_s"], abs=1e-3)
    assert told["weights"]["read_gb_per_s"] is None


def test_several_runs_give_median_and_p95(told: dict[str, Any]) -> None:
    firsts = sorted(run["first_token_s"] for run in told["runs"])
    assert len(firsts) == 2
    assert told["first_token_s"] == firsts[0]
    assert told["median"]["first_token_s"] == pytest.approx(sum(firsts) / 2, abs=1e-3)
    assert firsts[0] <= told["median"]["first_token_s"] <= told["p95"]["first_token_s"] <= firsts[1]


def test_the_token_comes_first_and_is_the_models_own(tmp_path: Path) -> None:
    """The report is written to a file that only appears when the token has long been read."""
    report = tmp_path / "report.json"
    options = ["demo", "--prompt", "Count from 3 to 7.", "--report", str(report), "--kv-memory", "67108864"]
    command = [sys.executable, "-m", "engine.first_token", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1000).decode()
    raw = [sys.executable, str(ROOT / "pilotlight.py"), "generate", "--raw", "--max-tokens", "1", "--json"]
    done = subprocess.run([*raw, "-p", "Count from 3 to 7."], capture_output=True, text=True, check=True, timeout=60)
    answer, written = json.loads(done.stdout), json.loads(report.read_text())
    assert first == answer["text"] + "\n"
    assert [written["token_id"]] == answer["token_ids"]
    assert written["prompt_tokens"] == answer["usage"]["prompt_tokens"]


def test_no_folder_of_the_users_gets_into_the_way(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    assert run("--json", SMALL, cwd=tmp_path).returncode == 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model that nobody has mapped, on storage that the page cache stands before."""
    copy = Path(shutil.copytree(DEMO, tmp_path / "model"))
    evict([copy / "model.safetensors"])
    if (residency([copy / "model.safetensors"]) or 0) > COLD:
        pytest.skip("temporary files are in memory here and cannot be evicted")
    return copy


def test_lanes_are_prepared_and_proved(model: Path) -> None:
    weights = [model / "model.safetensors"]
    assert prepare("resident", model) == Residency(1.0)
    assert prepare(None, model) == Residency(1.0)
    assert prepare("weights-cold", model) == Residency(0.0)
    weights[0].read_bytes()
    assert residency(weights) == 1.0


def test_probing_leaves_cold_files_cold(model: Path) -> None:
    large = model / "large"
    large.write_bytes(bytes(32 << 20))
    evict([large])
    assert residency([large]) == 0.0
    for _ in range(5):
        found = residency([large])
        assert found is not None
        assert found <= 0.2


def test_weights_that_another_process_has_mapped_are_no_cold_lane(model: Path) -> None:
    with (model / "model.safetensors").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert sum(view[::4096]) > 0
        with pytest.raises(LaneNotReached, match="100% of the weights cannot be evicted"):
            prepare("weights-cold", model)


def test_a_cold_boot_is_measured_against_the_storage(model: Path) -> None:
    measurement = measure(Task(str(model), "weights-cold", ("--kv-memory=67108864",)), 1)
    told = measurement.as_dict()
    assert (told["lane"], told["weights"]["resident_fraction"]) == ("weights-cold", 0.0)
    assert told["weights"]["read_gb_per_s"] > 0
    at_most = told["weights"]["read_gb_per_s"] + 0.00005  # As it is told, rounded.
    seconds = told["weights"]["bytes"] / at_most / 1e9
    assert told["floor_s"] >= max(seconds, span(told, "import torch")["end_s"]) - 1e-3
    assert residency([model / "model.safetensors"]) == 1.0


def test_a_comparison_marks_what_became_slower(told: dict[str, Any], folder: Path) -> None:
    earlier = json.loads((folder / "boot.json").read_text())
    span(earlier, "import torch")["end_s"] = span(earlier, "import torch")["start_s"] + 0.001
    (folder / "earlier.json").write_text(json.dumps(earlier))
    done = run("--compare", str(folder / "earlier.json"), SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    [line] = [line for line in done.stdout.splitlines() if "import torch" in line and "1.0 ms" in line]
    assert line.split()[-1] == "slower"
    assert "First token after" in done.stdout
    assert "warning" not in done.stdout


MEASUREMENT = Measurement(
    Task("demo", "weights-cold"),
    (Run(
        1.7, 1.5, 1.0, "fresh", "cpu", "float32",
        (
            Span("interpreter", 0.0, 0.1, {}, "MainThread"),
            Span("import torch", 0.1, 1.0, {}, "torch"),
            Span("import numpy", 0.3, 0.4, {}, "torch"),
            Span("model files", 0.2, 0.5, {}, "MainThread"),
            Span("weights <a> & b", 1.0, 1.5, {"bytes": 3_000_000_000, "resident_fraction": 0.25}, "weights"),
            Span("first prefill", 1.5, 1.7, {}, "MainThread"),
            Span("first token", 1.7, 1.7, {}, "MainThread"),
            Span("deferred", 1.7, 2.0, {}, "MainThread"),
        ),
        Weights(3_000_000_000, 0.5, 6.0, 0.0), 0.4,
    ),),
    2e9,
)
"""A boot with round numbers."""


def test_what_was_waited_for_is_followed_backwards() -> None:
    waited = {name: round(seconds, 6) for name, seconds in critical_path(MEASUREMENT.runs[0])}
    assert waited == {"import torch": 0.9, "weights <a> & b": 0.5, "first prefill": 0.2, "interpreter": 0.1}
    assert sum(waited.values()) == pytest.approx(1.7)


def test_the_closing_words_say_where_the_time_went_and_what_would_help() -> None:
    words = "\n".join(closing(MEASUREMENT))
    assert "1.700 s" in words
    assert "0.200 s above the floor" in words
    assert "import torch 0.90 s (53%), weights <a> & b 0.50 s (29%)" in words
    assert "fewer bytes" in words


def test_nested_spans_follow_the_one_they_lie_in() -> None:
    lines = [(row.span.name, row.depth) for row in rows(MEASUREMENT.runs[0].spans)]
    assert lines == [
        ("interpreter", 0), ("import torch", 0), ("import numpy", 1), ("model files", 0), ("weights <a> & b", 0),
        ("first prefill", 0), ("first token", 0), ("deferred", 0),
    ]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_waterfall_fits_terminals(width: int) -> None:
    console = Console(width=width, file=StringIO())
    draw(MEASUREMENT, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    for part in ("lane weights-cold", "0% of the weights", "40% of the libraries", "900 ms", "3 GB", "25% resident"):
        assert part in " ".join(text.split()), text
    assert "floor: the weights' bytes at the 2.00 GB/s of one reader, 1.500 s" in " ".join(text.split())


def test_the_waterfall_needs_no_unicode() -> None:
    command = [*PROGRAM, SMALL]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#" in done.stdout


def test_the_picture_is_a_document_for_light_and_dark() -> None:
    root = ElementTree.fromstring(svg(MEASUREMENT))
    texts = [element.text for element in root.iter() if element.text]
    for text in ("weights <a> & b", "3 GB, 6.00 GB/s, 25% resident", "900 ms", "0.5 s"):
        assert text in texts
    assert any("prefers-color-scheme: dark" in text for text in texts)


def test_the_command_writes_the_picture(told: dict[str, Any], folder: Path) -> None:
    drawn = (folder / "boot.svg").read_text()
    ElementTree.fromstring(drawn)
    assert all(f">{span['name']}<" in drawn for span in told["spans"] if span["name"] in ("ready", "import torch"))


def earlier_of(measurement: Measurement, path: Path) -> Path:
    path.write_text(json.dumps(measurement.as_dict()))
    return path


def test_a_comparison_with_other_work_is_warned_of(tmp_path: Path) -> None:
    file = earlier_of(replace(MEASUREMENT, task=Task("demo", "resident")), tmp_path / "earlier.json")
    found = compare(read_earlier(file, "demo"), MEASUREMENT)
    assert any("the lane was resident, now it is weights-cold" in warning for warning in found.warnings)
    assert not any(change.is_slower for change in found.changes)


def test_a_comparison_with_another_model_is_refused(tmp_path: Path) -> None:
    file = earlier_of(MEASUREMENT, tmp_path / "earlier.json")
    with pytest.raises(NotComparable, match="is a boot of demo, not of other"):
        read_earlier(file, "other")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", "3", "\0", '{"spans": 1}', '{"model": "demo", "spans": [{}]}']
)
def test_a_file_that_is_no_boot_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(NotComparable, match="is not what pilotlight boot --json writes"):
        read_earlier(tmp_path / "file", "demo")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["nosuchmodel"], "neither a folder nor a hub id"),
        (["--compare", __file__], "is not what pilotlight boot --json writes"),
        (["--svg", "/nowhere/at/all.svg"], "No such file"),
        (["--prompt", "Count from 3 to 7.", "--max-model-len", "4"], "the context holds 4"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_1(arguments: list[str], cause: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line for line in done.stderr.splitlines() if cause in line] == done.stderr.splitlines()


def test_a_boot_that_fails_says_why(model: Path) -> None:
    (model / "config.json").write_text("{")
    done = run(str(model))
    assert (done.returncode, done.stdout) == (1, "")
    assert "config.json" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["-n", "0"], ["--lane", "tepid"], ["--compare", "/no/such/file"], ["--prompt-tokens", "0"]]
)
def test_bad_usage_is_exit_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


LATE = ("deferred", "prefetch model.safetensors")
"""Spans of what may go on beside the first job, and end after it."""


@pytest.fixture(scope="module")
def answers() -> Iterator[tuple[list[Any], dict[str, Any], str]]:
    """A first job that asks for the timeline, what /health says after it, and the log."""
    with serving() as server:
        server.await_ready()
        with server.client() as client:
            job = {"input": {"prompt": "Count from 3 to 7.", "timeline": True}}
            output = client.post("/runsync", json=job).json()["output"]
            assert eventually(lambda: "ready after" in server.output), "it is logged once requests are taken"
            yield output, client.get("/health").json(), server.output


def test_a_job_that_asks_for_it_gets_the_timeline_after_its_answer(
    answers: tuple[list[Any], dict[str, Any], str]
) -> None:
    output, _, _ = answers
    timeline = output[-1]["timeline"]
    assert "choices" in output[0]
    assert timeline["start_kind"] == "fresh"
    assert {"import torch", "first prefill", "first token"} <= {span["name"] for span in timeline["spans"]}


def test_health_has_the_same_spans(answers: tuple[list[Any], dict[str, Any], str]) -> None:
    output, health, _ = answers
    then = [span["name"] for span in output[-1]["timeline"]["spans"] if span["name"] not in LATE]
    now = [span["name"] for span in health["start"]["spans"] if span["name"] not in LATE]
    assert now == then
    assert health["start"]["ready_s"] == output[-1]["timeline"]["ready_s"]
    assert health["start_kind"] == "warm"


def test_the_log_has_one_line_at_ready(answers: tuple[list[Any], dict[str, Any], str]) -> None:
    [line] = [line for line in answers[2].splitlines() if "ready after" in line]
    assert "import torch" in line
