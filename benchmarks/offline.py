"""Pilotlight against transformers' continuous batching, the same requests, in turns: `python -m benchmarks.offline`.

Makes the model (135M parameters, random bfloat16 weights) and the workload (24 requests of 64 to 384 prompt and 32 to
128 output tokens) in a temporary folder, runs each side in a fresh process in turns, prints a table of medians, and
writes every run's figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.make_model import SHAPES, make_model
from benchmarks.make_workload import make_workload

RESULTS = Path(__file__).parent / "results"


def sides(model: Path, work: Path, dtype: str) -> dict[str, list[str]]:
    """The command that runs each side; each prints JSON with `output_tokens_per_s`."""
    peer = str(Path(__file__).parent / "peer_transformers.py")
    given = [str(model), "--workload", str(work), "--dtype", dtype]
    return {
        "pilotlight": [sys.executable, "-m", "pilotlight", "bench", "offline", *given, "--device", "cpu", "--json"],
        "transformers continuous batching": [sys.executable, peer, *given],
    }


def run(command: list[str]) -> dict[str, Any]:
    """One side's figures.

    Raises:
        RuntimeError: the command failed, with the end of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(folder: Path, dtypes: list[str], repeats: int, shape: str) -> list[dict[str, Any]]:
    """Every run's figures; the sides take turns so that a slow minute of the machine meets both."""
    model = make_model(folder / "model", shape)
    work = make_workload(folder / "workload.jsonl", vocabulary=SHAPES[shape]["vocab_size"])
    turns = [
        (repeat, dtype, side, command)
        for repeat in range(repeats) for dtype in dtypes for side, command in sides(model, work, dtype).items()
    ]
    return [
        {"side": side, "dtype": dtype, "repeat": repeat, **run(command)}
        for repeat, dtype, side, command in track(turns, "measuring", console=Console(stderr=True))
    ]


def rate(runs: Iterable[dict[str, Any]], side: str, dtype: str) -> list[float]:
    """Output tokens a second of each run of a side, slowest first."""
    return sorted(run["output_tokens_per_s"] for run in runs if (run["side"], run["dtype"]) == (side, dtype))


def table(runs: list[dict[str, Any]]) -> Table:
    """Median and spread of each side, and the ratio to Pilotlight's peer."""
    drawn = Table("dtype", "side", "output tokens/s", "lowest", "highest", "ratio to transformers")
    for dtype in dict.fromkeys(run["dtype"] for run in runs):
        peer = statistics.median(rate(runs, "transformers continuous batching", dtype))
        for side in dict.fromkeys(run["side"] for run in runs):
            rates = rate(runs, side, dtype)
            middle = statistics.median(rates)
            figures = (middle, rates[0], rates[-1])
            drawn.add_row(dtype, side, *(f"{figure:.1f}" for figure in figures), f"{middle / peer:.2f}")
    return drawn


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--out", type=Path, default=RESULTS / "offline.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = measure(Path(folder), arguments.dtype, arguments.repeats, arguments.shape)
    Console().print(table(runs))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": processor()}
    arguments.out.write_text(json.dumps({**machine, "shape": arguments.shape, "runs": runs}, indent=1) + "\n")


def processor() -> str:
    """The processor's name and what matters of its instruction set."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in names.get("flags", "").split()]
    return f"{names.get('model name', platform.processor())} x {text.count('processor')}, {' '.join(has)}"


if __name__ == "__main__":
    main()
