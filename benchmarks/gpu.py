"""Every figure that needs a GPU, in one command of less than nine minutes: `python -m benchmarks.gpu --json FILE`.

Each measurement is a process of its own, so that it finds the device empty. `--quick` runs everything on a tiny shape,
on a CPU too, to try the script.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.bars import Bar
from benchmarks.gpu_machine import describe, start_times

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured.

    Attributes:
        decode_shape: of the decode steps against their floor.
        serving_shapes: of the load against transformers.
        buffer: bytes of the buffers that measure the ceilings.
    """

    decode_shape: str
    serving_shapes: tuple[str, ...]
    dtype: str
    requests: int
    lengths: tuple[int, int]
    batches: tuple[int, ...]
    prompt: int
    steps: int
    buffer: int


FULL = Scale(
    "llama-3.1-8b", ("qwen3-0.6b", "llama-3.1-8b"), "bfloat16", 256, (100, 1024), (1, 64, 256), 512, 50, 4 << 30
)
QUICK = Scale("tiny", ("tiny",), "float32", 4, (4, 12), (1, 2), 8, 4, 8 << 20)


def run_all(scale: Scale, device: str, parity: bool, pictures: Path | None) -> Figures:
    """All measurements; one that fails is recorded with the end of what it printed.

    Args:
        pictures: a folder for those that are drawn.
    """
    started = time.monotonic()
    figures: Figures = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device,
        "machine": describe(torch.device(device)), "start": start_times(torch.device(device)),
    }
    if parity:
        figures["parity"] = _parity()
    shared = ["--device", device, "--dtype", scale.dtype]
    figures["decode"] = _measure("gpu_decode", [
        scale.decode_shape, *shared, "--batches", *map(str, scale.batches), "--prompt", str(scale.prompt),
        "--steps", str(scale.steps), "--buffer", str(scale.buffer),
    ])
    load = ["--requests", str(scale.requests), "--lengths", *map(str, scale.lengths)]
    figures["serving"] = {
        shape: {
            side: _measure("gpu_serving", [shape, "--side", side, *shared, *load])
            for side in ("pilotlight", "transformers")
        }
        for shape in scale.serving_shapes
    }
    drawn = ["--pictures", str(pictures)] if pictures else []
    figures["cold_start"] = _measure("gpu_cold_start", [scale.decode_shape, *shared, *drawn])
    figures["seconds"] = time.monotonic() - started
    figures["bars"] = [asdict(bar) for bar in bars(figures)]
    return figures


def _measure(script: str, arguments: Sequence[str]) -> Figures:
    _say(f"{script} {' '.join(arguments)}")
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.returncode, "output": done.stderr[-2000:]}
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _parity() -> Figures:
    _say("the tests that need a device")
    command = [sys.executable, "-m", "pytest", "-q", "tests/device"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_status": done.returncode, "output": done.stdout[-2000:]}


def _say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


def bars(figures: Figures) -> Iterator[Bar]:
    """What issue and design promise, as far as it was measured."""
    if "parity" in figures:
        status = figures["parity"]["exit_status"]
        yield Bar("parity suite's exit status", status, 0, status == 0)
    for step in figures["decode"].get("decode", []):
        wanted = {1: 0.85, 256: 0.60}.get(step["batch"])
        if wanted is not None:
            share = step["share_of_floor"]
            yield Bar(f"decode at batch {step['batch']}, share of the floor", share, wanted, share >= wanted)
        if step["batch"] == 64 and step["device_idle_share"] is not None:
            idle = step["device_idle_share"]
            yield Bar("device idle in a decode step at batch 64", idle, 0.05, idle < 0.05)
    if "compilations" in figures["decode"]:
        count = figures["decode"]["compilations"]
        yield Bar("kernels compiled in service", count, 0, count == 0)
    for shape, sides in figures["serving"].items():
        if all("output_tokens_per_s" in side for side in sides.values()):
            ratio = sides["pilotlight"]["output_tokens_per_s"] / sides["transformers"]["output_tokens_per_s"]
            yield Bar(f"{shape}: output tokens a second, as a multiple of transformers'", ratio, 3, ratio >= 3)
    yield from (Bar(**bar) for bar in figures.get("cold_start", {}).get("bars", []))


def failures(figures: Figures) -> list[str]:
    """What each measurement that failed printed last."""
    served = (side for sides in figures["serving"].values() for side in sides.values())
    parts = [figures["decode"], figures["cold_start"], *served]
    return [part["output"] for part in parts if "failed" in part]


def table(figures: Figures) -> Table:
    """The bars for a person to read."""
    shown = Table("what", "measured", "bar", "holds", title=figures["machine"]["device"])
    for bar in figures["bars"]:
        shown.add_row(bar["what"], f"{bar['measured']:.3f}", f"{bar['bar']:g}", "yes" if bar["holds"] else "NO")
    return shown


def main() -> None:
    """Read the command line, run, print; the exit status is 1 when a measurement failed or a bar does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny shape, to try the script; no bar is checked")
    parser.add_argument("--no-parity", action="store_true", help="leave out the tests")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.quick:
        parser.error("no GPU is at hand; --quick runs a tiny shape on the CPU")
    pictures = arguments.json.resolve().parent if arguments.json else None
    figures = run_all(QUICK if arguments.quick else FULL, arguments.device, not arguments.no_parity, pictures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    Console().print(table(figures))
    broken = failures(figures)
    print("\n".join(broken), file=sys.stderr)
    held = arguments.quick or all(bar["holds"] for bar in figures["bars"])
    sys.exit(1 if broken or not held else 0)


if __name__ == "__main__":
    main()
