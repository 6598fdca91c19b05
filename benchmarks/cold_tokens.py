"""From exec to the first byte of the first token: one run of any side in a lane that was prepared and probed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cold_models import ROOT, Model
from benchmarks.first_byte import Watched, watch
from engine.lanes import COLD, Lane, LaneNotReached, evict, read, read_rate, residency
from engine.tensor_file import weight_files

OURS = "pilotlight"
PEERS = {
    "openvino-continuous": ("openvino", "--pipeline", "continuous"),
    "openvino-sdpa": ("openvino", "--pipeline", "sdpa"),
    "openvino-sdpa-cached": ("openvino", "--pipeline", "sdpa", "--cached"),
    "transformers": ("transformers", "--dtype", "float32"),
}
"""The environment and options of each side that is not ours. OpenVINO's cache makes continuous batching slower to
start. transformers computes in float32, which is faster where the CPU has no instructions for bfloat16."""

Figures = dict[str, Any]


def enter(lane: Lane, folder: Path) -> float | None:
    """Bring all files of a folder into a lane; gives the share of their bytes that is resident, None if untold.

    Raises:
        LaneNotReached: they would not go, or not stay.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    if lane == "resident":
        for path in files:
            read(path)
    else:
        evict(files)
    share = residency(files)
    if share is not None and (share < 1 - COLD if lane == "resident" else share > COLD):
        raise LaneNotReached(f"{share:.0%} of {folder.name} is resident, which is not lane {lane}")
    return share


def first_token(side: str, model: Model, lane: Lane, interpreters: Mapping[str, Path]) -> Figures:
    """One run's figures; ours with the floor of its lane, measured around it.

    `floor_s` is the import of torch in that very run, or if longer the bytes of the weights at the rate at which one
    sequential reader reads them just afterwards, evicted again.
    """
    folder = model.converted if side.startswith("openvino") else model.plain
    about = {"model": model.name, "lane": lane, "side": side}
    if side != OURS:
        resident = enter(lane, folder)
        environment, *options = PEERS[side]
        script = ROOT / "benchmarks" / f"cold_{environment}.py"
        command = [str(interpreters[environment]), str(script), str(folder), *options]
        seen = watch([*command, "--ids", *map(str, model.ids())])
        told = json.loads(seen.output.splitlines()[-1])
        return {**about, "resident_fraction": resident, "first_token_s": seen.first_byte_s, **told}
    resident = enter(lane, model.baked)
    seen, report = boot(model, interpreters.get(OURS, Path(sys.executable)))
    torch_s = _end(report, "import torch") + report["origin"] - seen.started
    figures = {**about, "resident_fraction": resident, "first_token_s": seen.first_byte_s, "torch_s": torch_s}
    files = weight_files(model.baked)
    rate = read_rate(files, cold=lane != "resident")
    floor_s = torch_s
    if lane != "resident":
        floor_s = max(torch_s, sum(file.stat().st_size for file in files) / rate)
    dtype = report["dtype"]
    return {**figures, "read_bytes_per_s": rate, "floor_s": floor_s, "token_id": report["token_id"], "dtype": dtype}


def boot(model: Model, python: Path, *, memory: bool = False) -> tuple[Watched, Figures]:
    """Boot Pilotlight to its first token; what was seen from outside, and what it reports itself."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [str(python), "-P", "-m", "engine.first_token", str(model.baked), "--report", str(report)]
        seen = watch(command, ours_first(), memory=memory)
        return seen, json.loads(report.read_text())


def ours_first() -> dict[str, str]:
    """Variables with which a process finds our source."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))}


def _end(report: Figures, name: str) -> float:
    return max((float(span["end_s"]) for span in report["spans"] if span["name"] == name), default=0.0)
