"""How fast loaders bring a model's weights in, beside `dd`: one run of any of them in a lane."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cold_models import ROOT, Model
from benchmarks.cold_tokens import enter, ours_first
from benchmarks.first_byte import watch
from engine.lanes import Lane
from engine.tensor_file import weight_files

DD = "dd"
ENVIRONMENTS = {
    "pilotlight mapped": None, "pilotlight streamed": None, "safetensors": None,
    "runai": "runai", "fastsafetensors": "fastsafetensors",
}
"""Every loader's environment; None is this one."""
LOADERS = (DD, *ENVIRONMENTS)

_COPIED = re.compile(r"(\d+) bytes .* copied, ([\d.e-]+) s")


def load(
    loader: str, model: Model, lane: Lane, interpreters: Mapping[str, Path], device: str = "cpu"
) -> dict[str, Any]:
    """One run's figures, of a fresh process.

    Args:
        device: where to load to; `dd` and what maps files know the CPU alone.
    """
    resident = enter(lane, model.baked)
    if loader == DD:
        told = dd(model.baked)
    else:
        environment = ENVIRONMENTS[loader]
        python = str(interpreters[environment]) if environment else sys.executable
        script = ["-P", str(ROOT / "benchmarks" / "cold_loaders.py"), loader, str(model.baked), "--device", device]
        told = json.loads(watch([python, *script], ours_first()).output.splitlines()[-1])
    about = {"model": model.name, "lane": lane, "loader": loader, "device": device, "resident_fraction": resident}
    return {**about, **told, "gb_per_s": told["bytes"] / told["seconds"] / 1e9}


def dd(folder: Path) -> dict[str, Any]:
    """What `dd bs=16M` says of a folder's weights, files one after the other."""
    size, seconds = 0, 0.0
    for file in weight_files(folder):
        command = ["dd", f"if={file}", "of=/dev/null", "bs=16M"]
        environment = os.environ | {"LC_ALL": "C"}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr
        found = _COPIED.search(said)
        if found is None:
            raise RuntimeError(f"dd said: {said}")
        size, seconds = size + int(found[1]), seconds + float(found[2])
    return {"bytes": size, "seconds": seconds, "version": None}
