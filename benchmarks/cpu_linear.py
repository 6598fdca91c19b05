"""Linear layers on this CPU: the C++ kernels beside torch's product and oneDNN's prepacked one.

    python -m benchmarks.cpu_linear [--rows 1,24,128] [--shapes 960x576,576x1536] [--json]

The contenders take turns, so that whatever else the machine does falls on all of them. Each figure is a median of
rates with its quartiles; weights are visited in rotation, so that small ones come from memory as they do in a model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.cpu.library import Library, Unavailable, load, open_library
from kernels.cpu.linear import OneDnnLinear, PackedLinear

SHAPES = "960x576,576x576,3072x576,576x1536,49152x576"
COPIES_BYTES = 128 * 2**20
"""Weights of one contender: several times the last-level cache, where the shape allows."""

Contender = Callable[[Tensor], Tensor]
Maker = Callable[[Tensor], Contender]


@dataclass(frozen=True, slots=True)
class Result:
    """Rates of one contender at one shape; quartiles of GFLOP/s, and weight bytes read a second at the median."""

    outputs: int
    inputs: int
    rows: int
    name: str
    gflops: float
    low: float
    high: float
    weight_gb_per_s: float


def main() -> None:
    """Measure what the command line asks for."""
    arguments = _arguments()
    library = open_library(arguments.library) if arguments.library else load()
    if isinstance(library, Unavailable):
        sys.exit(library.describe())
    torch.manual_seed(0)
    results = [
        result
        for shape in arguments.shapes.split(",")
        for result in _shape(library, shape, arguments)
    ]
    if arguments.json:
        print(json.dumps({"machine": library.describe(), "results": [asdict(result) for result in results]}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", default=SHAPES, help="outputs x inputs, comma-separated")
    parser.add_argument("--rows", default="1,8,24,128,512", help="tokens of a step, comma-separated")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender at each shape and row count")
    parser.add_argument("--only", default="", help="contenders, comma-separated; all when left out")
    parser.add_argument("--library", type=Path, help="another build of the kernels")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _shape(library: Library, shape: str, arguments: argparse.Namespace) -> list[Result]:
    outputs, inputs = map(int, shape.split("x"))
    weight = torch.randn(outputs, inputs) * inputs**-0.5
    wanted = [name for name in arguments.only.split(",") if name]
    contenders = {
        name: (element_size, copies)
        for name, (element_size, make) in _makers(library).items()
        if not wanted or name in wanted
        for copies in [[make(weight) for _ in range(max(1, COPIES_BYTES // (weight.numel() * element_size)))]]
    }
    results = []
    for rows in map(int, arguments.rows.split(",")):
        calls = {name: copies for name, (_, copies) in contenders.items()}
        for name, times in _interleaved(calls, rows, inputs, arguments.seconds).items():
            result = _result(outputs, inputs, rows, name, times, contenders[name][0])
            results.append(result)
            _print(result)
    return results


def _makers(library: Library) -> dict[str, tuple[int, Maker]]:
    """Bytes of a weight, and how a contender is made from a float32 one."""

    def kernels(given: torch.dtype, packed: torch.dtype | None, activations: torch.dtype) -> Maker:
        def make(weight: Tensor) -> Contender:
            projection = PackedLinear(library, weight.to(given))
            if packed:
                projection.pack(packed)
            return projection if activations is torch.float32 else lambda x: projection(x.to(activations))

        return make

    def one_dnn(weight: Tensor) -> Contender:
        projection = OneDnnLinear(weight)
        projection.pack()
        return projection

    def plain(dtype: torch.dtype) -> Maker:
        def make(weight: Tensor) -> Contender:
            copy = weight.to(dtype, copy=True)
            return lambda x: linear(x.to(dtype), copy)

        return make

    single, half = torch.float32, torch.bfloat16
    return {
        "torch float32": (4, plain(single)),
        "oneDNN float32": (4, one_dnn),
        "torch bfloat16": (2, plain(half)),
        "float32": (4, kernels(single, single, single)),
        "bfloat16": (2, kernels(half, half, single)),
        "int8": (1, kernels(half, torch.int8, single)),
        "all bfloat16": (2, kernels(half, half, half)),
        "float32 rows": (4, kernels(single, None, single)),
        "bfloat16 rows": (2, kernels(half, None, single)),
    }


def _interleaved(
    contenders: dict[str, list[Contender]], rows: int, inputs: int, seconds: float
) -> dict[str, list[float]]:
    x = torch.randn(rows, inputs)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds * len(contenders)
    turn = 0
    while turn < 3 or time.perf_counter() < end:
        for name, copies in contenders.items():
            times[name].append(_seconds(copies, turn, x))
        turn += 1
    return {name: taken[1:] for name, taken in times.items()}


def _seconds(copies: list[Contender], turn: int, x: Tensor) -> float:
    """A call, averaged over a few in a row: after another contender the first finds foreign caches and threads."""
    calls = min(len(copies), 16)
    chosen = [copies[(turn * calls + call) % len(copies)] for call in range(calls)]
    start = time.perf_counter()
    for contender in chosen:
        contender(x)
    return (time.perf_counter() - start) / calls


def _result(outputs: int, inputs: int, rows: int, name: str, times: list[float], element_size: int) -> Result:
    operations = 2e-9 * rows * outputs * inputs
    fast, median, slow = statistics.quantiles(times, n=4, method="inclusive")
    bytes_per_s = outputs * inputs * element_size / median
    middle, low, high = (round(operations / seconds, 1) for seconds in (median, slow, fast))
    return Result(outputs, inputs, rows, name, middle, low, high, round(bytes_per_s / 1e9, 1))


def _print(result: Result) -> None:
    print(
        f"{result.outputs:>6} x {result.inputs:<5} rows {result.rows:>4}  {result.name:<15} "
        f"{result.gflops:>7.1f} GFLOP/s ({result.low:.1f} to {result.high:.1f}) {result.weight_gb_per_s:>6.1f} GB/s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
