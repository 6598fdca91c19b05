"""Boots in fresh processes, timed from outside: what `pilotlight boot` measures, and compares with an earlier time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine.errors import PilotlightError
from engine.lanes import Lane, Residency, prepare, read_rate
from engine.percentiles import percentiles
from engine.source import find_model
from engine.tensor_file import weight_files
from engine.timeline import Span

ROOT = Path(__file__).parent.parent

AS_IS = "as-is"
"""The lane of a boot for which nothing was prepared."""

_RESIDENT = 0.98
"""From this share on, a boot as it is has the floor of a resident one."""


class BootFailed(PilotlightError):
    """The process ended before its first token; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to boot.

    Attributes:
        model: `demo`, a folder, or a hub id.
        lane: what to prepare before every run; None leaves the machine as it is.
        options: further arguments of `python -m engine.first_token`.
    """

    model: str
    lane: Lane | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Weights:
    """How the model's weights came in.

    Attributes:
        bytes: of their files.
        seconds: in which they were read or put in place, beside whatever else.
        resident_fraction: as probed before the boot; None where the file system does not tell.
    """

    bytes: int
    seconds: float
    gb_per_s: float
    resident_fraction: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """One boot. All seconds count from exec, on the clock of the process that looked on.

    Attributes:
        first_token_s: when the first byte of the token's text arrived.
        torch_s: when the import of torch ended.
    """

    first_token_s: float
    ready_s: float
    torch_s: float
    start_kind: str
    device: str
    dtype: str
    spans: tuple[Span, ...]
    weights: Weights
    libraries_resident: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The runs of a task, and the storage's own rate in the same lane.

    Attributes:
        read_bytes_per_s: of one sequential reader of the same files; None where the floor does not need it.
    """

    task: Task
    runs: tuple[Run, ...]
    read_bytes_per_s: float | None

    @property
    def lane(self) -> str:
        return self.task.lane or AS_IS

    @property
    def shown(self) -> Run:
        """The run in the middle, by its first token: the one to look at."""
        return sorted(self.runs, key=lambda run: run.first_token_s)[(len(self.runs) - 1) // 2]

    def floor_s(self, run: Run) -> float:
        """No boot of these bytes can be faster here: torch's import, or the bytes at the storage's rate if longer."""
        if self.read_bytes_per_s is None:
            return run.torch_s
        return max(run.torch_s, run.weights.bytes / self.read_bytes_per_s)

    @property
    def end_s(self) -> float:
        """When all that is shown is over."""
        run = self.shown
        return max(run.first_token_s, self.floor_s(run), *(span.end_s for span in run.spans))

    def as_dict(self) -> dict[str, Any]:
        """The contract of `pilotlight boot --json`."""
        run, weights = self.shown, self.shown.weights
        return {
            "model": self.task.model, "lane": self.lane, "device": run.device, "dtype": run.dtype,
            "first_token_s": _rounded(run.first_token_s), "ready_s": _rounded(run.ready_s),
            "start_kind": run.start_kind, "floor_s": _rounded(self.floor_s(run)),
            "weights": {
                "bytes": weights.bytes, "seconds": _rounded(weights.seconds), "gb_per_s": _rounded(weights.gb_per_s),
                "resident_fraction": weights.resident_fraction, "read_gb_per_s": _gigabytes(self.read_bytes_per_s),
            },
            "libraries": {"resident_fraction": run.libraries_resident},
            "spans": [span.as_dict() for span in run.spans],
            "runs": [self._summary(run) for run in self.runs],
            **(self._statistics() if len(self.runs) > 1 else {}),
        }

    def _summary(self, run: Run) -> dict[str, float | None]:
        times = {"first_token_s": run.first_token_s, "ready_s": run.ready_s, "floor_s": self.floor_s(run)}
        return {name: _rounded(value) for name, value in times.items()} | {
            "resident_fraction": run.weights.resident_fraction
        }

    def _statistics(self) -> dict[str, dict[str, float]]:
        """Median and p95 of every figure that a run has of its own."""
        found: dict[str, dict[str, float]] = {"median": {}, "p95": {}}
        for name in ("first_token_s", "ready_s", "floor_s"):
            shares = percentiles([float(self._summary(run)[name] or 0) for run in self.runs])
            found["median"][name] = _rounded(shares["p50"] or 0.0)
            found["p95"][name] = _rounded(shares["p95"] or 0.0)
        return found


def measure(task: Task, runs: int, on_run: Callable[[int], object] = lambda number: None) -> Measurement:
    """Boot so many times, each in a process of its own.

    Args:
        on_run: called after each run.

    Raises:
        PilotlightError: the model cannot be found, the lane not reached, or a process gave no token.
    """
    folder = find_model(task.model)
    done = []
    for _ in range(runs):
        done.append(_run(task, folder, prepare(task.lane, folder)))
        on_run(1)
    cold = task.lane in ("weights-cold", "host-cold") or _found_cold(task.lane, done)
    return Measurement(task, tuple(done), read_rate(weight_files(folder), cold=True) if cold else None)


def _found_cold(lane: Lane | None, runs: Iterable[Run]) -> bool:
    shares = [run.weights.resident_fraction for run in runs]
    return lane is None and any(share is not None and share < _RESIDENT for share in shares)


def _run(task: Task, folder: Path, resident: Residency) -> Run:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+") as errors, os.fdopen(reading) as report:
        started = time.monotonic()
        try:
            process = _start(task, writing, errors)
        finally:
            os.close(writing)
        try:
            arrived, told = _watch(process, report)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        if not told:
            raise BootFailed(_last_line(errors.read()) or f"the boot ended with status {process.returncode}")
    return _read(json.loads(told), arrived - started, started, folder, resident)


def _start(task: Task, report: int, errors: IO[str]) -> subprocess.Popen[bytes]:
    """exec, with our own source first on the path, and nothing of the folder the user happens to be in."""
    command = [sys.executable, "-P", "-m", "engine.first_token", task.model, *task.options, "--report", str(report)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, pass_fds=[report],
        env=os.environ | {"PYTHONPATH": path},
    )


def _watch(process: subprocess.Popen[bytes], report: IO[str]) -> tuple[float, str]:
    """When the first byte of output arrived, and the report that follows it; waits for the process to end."""
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    arrived = time.monotonic()
    told = report.read()
    process.communicate()
    return arrived, told


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("pilotlight: ") if lines else ""


def _read(told: Mapping[str, Any], first_token_s: float, started: float, folder: Path, resident: Residency) -> Run:
    shift = told["origin"] - started  # The kernel tells a process's start to 10 ms; our own clock told when exec was.
    spans = tuple(_shifted(span, shift) for span in told["spans"])
    torch_s = max((span.end_s for span in spans if span.name == "import torch"), default=0.0)
    return Run(
        first_token_s, told["ready_s"] + shift, torch_s, told["start_kind"], told["device"], told["dtype"], spans,
        _weights(spans, folder, resident), resident.libraries,
    )


def _shifted(span: Mapping[str, Any], shift: float) -> Span:
    # Only what began with the process can come out below zero.
    return Span(
        span["name"], max(0.0, span["start_s"] + shift), max(0.0, span["end_s"] + shift), span["detail"],
        span["thread"],
    )


def _weights(spans: Iterable[Span], folder: Path, resident: Residency) -> Weights:
    """Over the time in which their files were read or put in place, counted once where threads did so together."""
    files = weight_files(folder)
    names = {f"{stage} {file.name}" for file in files for stage in ("prefetch", "weights")}
    size = sum(file.stat().st_size for file in files)
    seconds = _covered([(span.start_s, span.end_s) for span in spans if span.name in names])
    return Weights(size, seconds, size / seconds / 1e9 if seconds else 0.0, resident.weights)


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union."""
    total, reached = 0.0, 0.0
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _rounded(value: float) -> float:
    return round(value, 4)


def _gigabytes(bytes_per_s: float | None) -> float | None:
    return None if bytes_per_s is None else _rounded(bytes_per_s / 1e9)
