"""Cold starts with a device: `python -m benchmarks.gpu_cold_start llama-3.1-8b`; the last line of output is JSON.

A model of a real shape with random weights is baked onto the disk; then it is booted and loaded, resident and cold,
beside the rates of the links its bytes go over.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.bars import Bar, at_least, at_most
from benchmarks.cold_models import Model
from benchmarks.cold_rates import load
from benchmarks.environments import CACHE
from benchmarks.gpu_machine import seconds, start_times
from benchmarks.gpu_model import write_model
from engine.boot_runs import Measurement, Task, measure
from engine.lanes import Lane
from engine.tensor_file import weight_files
from engine.waterfall_svg import svg
from image.bake import BakeOptions, bake

Figures = dict[str, Any]

OVER_FLOOR = 1.25
SHARE_OF_LINK = 0.80
_SLOW_DISK = 1e9
"""Bytes a second; below it, one cold boot of 16 GB is all there is time for."""
_COPIED = 1 << 30


def measure_all(shape: str, device: torch.device, dtype: str, folder: Path, pictures: Path | None) -> Figures:
    """Every figure, with what it must be."""
    began = time.monotonic()
    with _baked(shape, device, folder) as model:
        figures: Figures = {
            "shape": shape, "bytes": sum(file.stat().st_size for file in weight_files(model.baked)),
            "make_s": time.monotonic() - began, "start": start_times(device),
            "host_to_device_bytes_per_s": host_to_device(device),
        }
        figures["lanes"] = {
            lane: _lane(model, lane, device, dtype, figures, pictures) for lane in ("resident", "weights-cold")
        }
    figures["seconds"] = time.monotonic() - began
    figures["bars"] = [asdict(bar) for bar in bars(figures)]
    return figures


@contextmanager
def _baked(shape: str, device: torch.device, folder: Path) -> Iterator[Model]:
    """The model, for as long as it is needed; what it is baked from is kept in memory where there is room."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = Path("/dev/shm")
    room = shutil.disk_usage(shared).free if shared.exists() else 0
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with tempfile.TemporaryDirectory(dir=shared if room > 32 << 30 else folder) as source:
            plain = write_model(shape, Path(source) / shape)
            bake(str(plain), Path(place) / shape, BakeOptions(architectures=_architectures(device)))
        yield Model(shape, Path(place) / shape, Path(place) / shape, Path(place) / "none")


def _architectures(device: torch.device) -> tuple[int, ...]:
    if device.type != "cuda":
        return ()
    major, minor = torch.cuda.get_device_capability(device)
    return (10 * major + minor,)


def host_to_device(device: torch.device) -> float:
    """Bytes a second from pinned memory to the device; between two buffers where there is none."""
    on_device = device.type == "cuda"
    size = _COPIED if on_device else _COPIED >> 4
    source = torch.zeros(size, dtype=torch.uint8, pin_memory=on_device)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    return size / seconds(lambda: target.copy_(source, non_blocking=True), device, 5)


def _lane(
    model: Model, lane: Lane, device: torch.device, dtype: str, figures: Figures, pictures: Path | None
) -> Figures:
    """The storage, our loader and our boot in one lane."""
    storage = load("dd", model, lane, {})
    loader = load("pilotlight streamed", model, lane, {}, device.type)
    slow = lane != "resident" and storage["gb_per_s"] * 1e9 < _SLOW_DISK
    task = Task(str(model.baked), lane, ("--device", device.type, "--dtype", dtype))
    quick = device.type == "cpu"
    if lane == "resident" and not quick:
        measure(task, 1)  # Libraries come from storage, and the driver fills its caches.
    measurement = measure(task, 1 if slow or quick else 2)
    if pictures:
        (pictures / f"gpu_cold_start_{lane}.svg").write_text(svg(measurement), encoding="utf-8")
    return {"storage": storage, "loader": loader, "boot": _boot(measurement, storage["gb_per_s"] * 1e9, figures)}


def _boot(measurement: Measurement, read_bytes_per_s: float, figures: Figures) -> Figures:
    """The run in the middle against its floor."""
    run = measurement.shown
    copying = figures["bytes"] / figures["host_to_device_bytes_per_s"]
    deferred = [span for span in run.spans if span.name == "deferred"]
    token = next(span.end_s for span in run.spans if span.name == "first token")
    return {
        "first_token_s": run.first_token_s, "runs_s": [other.first_token_s for other in measurement.runs],
        "floor_s": max(
            figures["bytes"] / read_bytes_per_s, run.torch_s + figures["start"]["open_device"] + copying
        ),
        "torch_s": run.torch_s, "resident_fraction": run.weights.resident_fraction,
        "deferred_from_token_s": deferred[0].start_s - token if deferred else None,
        "deferred_s": sum(span.seconds for span in deferred),
        "spans": [span.as_dict() for span in run.spans],
    }


def bars(figures: Figures) -> Iterator[Bar]:
    """What the issue promises."""
    for lane, found in figures["lanes"].items():
        boot, rate = found["boot"], found["loader"]["gb_per_s"]
        floor = OVER_FLOOR * boot["floor_s"]
        yield at_most(f"{lane}: first token, s, by 1.25 times its floor", boot["first_token_s"], floor)
        link = min(found["storage"]["gb_per_s"], figures["host_to_device_bytes_per_s"] / 1e9)
        yield at_least(f"{lane}: loader, share of the slower link", rate / link, SHARE_OF_LINK)
        if boot["deferred_from_token_s"] is not None:
            yield at_least(f"{lane}: graphs begun after the first token, s", boot["deferred_from_token_s"], 0)


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--folder", type=Path, default=CACHE.parent / "gpu_cold_start", help="on the disk to measure")
    parser.add_argument("--pictures", type=Path, help="a folder for each lane's waterfall")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(json.dumps(measure_all(arguments.shape, device, arguments.dtype, arguments.folder, arguments.pictures)))


if __name__ == "__main__":
    main()
