"""`pilotlight warm simulate`, as its user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "pilotlight.py"), "warm", "simulate", *arguments],
        capture_output=True, text=True, check=False, timeout=100,
    )


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three requests: 100 s after the first, 900 s after the second."""
    file = tmp_path / "trace.csv"
    file.write_text("TIMESTAMP\n0\n100\n1000\n")
    return file


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {row["policy"]: row for row in json.loads(done.stdout)["policies"]}


def test_the_arithmetic_of_three_requests(trace: Path) -> None:
    """20 s a start, 3 s a request.

    idle:60: three lives of 20 + 3 + 60 s. idle:300: one from 0 to 103 + 300, one of 20 + 3 + 300. always: 0 to 1003,
    and 5. fixed:300 starts with a ping at 0 beside the first request, and at 300, 600 and 900; these are gone after
    20 + 0.1 + 5 s, rounded up.
    """
    found = rows(simulate(
        str(trace), "--cold-seconds", "20", "--service-seconds", "3", "--price", "0.001", "--wait-value", "5", "--json",
        *(part for name in ("idle:60", "idle:300", "always", "fixed:300") for part in ("--policy", name)),
    ))
    assert [found[name]["billed_s"] for name in found] == [3 * 83, 403 + 323, 1003 + 5, 28 + 28 + 3 * 26 + 28]
    assert [found[name]["cold_starts"] for name in found] == [3, 2, 0, 3]
    assert [found[name]["waited_s"] for name in found] == [60, 40, 0, 60]
    assert found["idle:60"]["cost"] == pytest.approx(0.249)
    assert found["idle:60"]["score"] == pytest.approx(0.249 + 0.001 * 5 * 60)
    assert set(found["always"]) == {"policy", "requests", "cold_starts", "billed_s", "cost", "waited_s", "score"}


def test_what_the_figures_rest_on_is_told(trace: Path) -> None:
    """Enough to reckon them again: fixed:300 has pings at 300 and 600 since 1970, not since the first request."""
    done = simulate(str(trace), "--policy", "idle:60", "--price", "0.001", "--json")
    told = json.loads(done.stdout)["assumptions"]
    figures = {name: told[name] for name in ("cold_seconds", "service_seconds", "price", "wait_value", "at_once")}
    assert figures == {"cold_seconds": 20, "service_seconds": 3, "price": 0.001, "wait_value": 5, "at_once": "all"}
    assert (told["begin_s"], told["end_s"]) == (0, 1003)
    assert "1970" in told["ping"]


def test_the_printed_figures_make_the_printed_score(tmp_path: Path) -> None:
    (tmp_path / "thirds").write_text("0\n0.33333\n0.66667\n")
    found = rows(simulate(str(tmp_path / "thirds"), "--policy", "idle:60", "--wait-value", "1e6", "--json"))["idle:60"]
    assert found["cost"] == pytest.approx(0.00031 * found["billed_s"], rel=1e-12)
    assert found["score"] == pytest.approx(found["cost"] + 0.00031 * 1e6 * found["waited_s"], rel=1e-12)


def test_a_device_is_no_trace() -> None:
    done = simulate("/dev/zero")
    assert (done.returncode, done.stderr) == (1, "pilotlight: /dev/zero is no text\n")


def test_pings_of_many_years_are_laid_out_in_parts(tmp_path: Path) -> None:
    """A request in 1970 and one 30 years later; a ping an hour between them, of 26 s each (25.1 rounded up).

    The last ping comes a second before the second request, which waits for what is left of its start.
    """
    (tmp_path / "years").write_text("1\n946684801\n")
    found = rows(simulate(str(tmp_path / "years"), "--policy", "fixed:3600", "--json"))
    assert found["fixed:3600"]["billed_s"] == 28 + (946684800 // 3600 - 1) * 26 + 28
    assert found["fixed:3600"]["waited_s"] == 20 + 19


def test_the_rest_of_a_trace_after_training(trace: Path) -> None:
    found = rows(simulate(str(trace), "--policy", "idle:60", "--train", "0.5", "--json"))
    assert found["idle:60"]["requests"] == 1


def test_several_workers(trace: Path) -> None:
    found = rows(simulate(str(trace), "--policy", "idle:60", "--workers-max", "3", "--at-once", "1", "--json"))
    assert found["idle:60"]["billed_s"] == 3 * 83


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<svg"), (".png", b"\x89PNG")])
def test_a_plot(trace: Path, tmp_path: Path, suffix: str, magic: bytes) -> None:
    plot = tmp_path / f"front{suffix}"
    done = simulate(str(trace), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    assert plot.read_bytes().startswith(magic)
    assert "learned" in done.stdout


def test_a_plot_is_there_whole_or_not_at_all(trace: Path, tmp_path: Path) -> None:
    """What goes wrong in the replay, or in the writing of it (here a limit to a file's size), leaves what was there."""
    (tmp_path / "empty").touch()
    plot = tmp_path / "plots" / "front.svg"
    plot.parent.mkdir()
    assert simulate(str(tmp_path / "empty"), "--plot", str(plot)).returncode == 1
    assert list(plot.parent.iterdir()) == []
    plot.write_text("an earlier one")
    limited = f"ulimit -f 1; exec {sys.executable} -B {ROOT / 'pilotlight.py'} warm simulate {trace} --plot {plot}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (1, "pilotlight: [Errno 27] File too large\n")
    assert [(file.name, file.read_text()) for file in plot.parent.iterdir()] == [("front.svg", "an earlier one")]


def test_a_plot_that_cannot_be_written_is_known_before_the_trace_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = simulate(str(tmp_path / "empty"), "--plot", "/nowhere/front.svg")
    assert (done.returncode, done.stderr) == (
        1, "pilotlight: [Errno 2] No such file or directory: '/nowhere/front.svg'\n"
    )


@pytest.mark.parametrize("arguments", ["simulate {trace} --json", "simulate {trace}", "status --endpoint x --json"])
def test_a_closed_standard_output_is_one_line(trace: Path, arguments: str) -> None:
    command = f"exec {sys.executable} {ROOT / 'pilotlight.py'} warm {arguments.format(trace=trace)} >&-"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (1, "pilotlight: standard output is closed\n")


@pytest.mark.parametrize(("arguments", "status", "told"), [
    (["--policy", "often"], 2, "often is no policy"), (["--price", "-1"], 2, "price"),
    (["--price", "nan"], 2, "price"),
    (["--wait-value", "-1"], 2, "wait value"), (["--cold-seconds", "-3"], 2, "not negative"),
    (["--cold-seconds", "lognormal:x"], 2, "lognormal"),
    (["--train", "1"], 2, "--train"), (["--plot", "front.gif"], 2, ".svg or .png"),
    (["--stretch", "0"], 2, "--stretch"), (["--stretch", "1e9"], 2, "years"), (["--policy", "idle"], 2, "idle: write"),
    (["--policy", "cron:Mon 24:00-06:00"], 2, "24:00"), (["--price", "1e308"], 2, "price"),
    (["--cold-seconds", "1e308"], 2, "a year"), (["--cold-seconds", "lognormal:20,800"], 2, "lognormal"),
    (["--service-seconds", "nowhere"], 2, "nowhere"),
])
def test_bad_usage_is_one_line(trace: Path, arguments: list[str], status: int, told: str) -> None:
    done = simulate(str(trace), *arguments)
    assert done.returncode == status
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_trace_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = simulate(str(tmp_path / "empty"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no arrivals" in done.stderr
