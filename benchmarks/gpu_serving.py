"""A full load on one side, Pilotlight or transformers' continuous batching, over random weights of a real shape.

`python -m benchmarks.gpu_serving SHAPE --side pilotlight --device cuda` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_engine import GpuEngine, random_jobs
from benchmarks.gpu_shapes import SHAPES, write_config
from engine.bench import Job
from engine.config import DType

Side = Callable[[str, torch.device, DType, Sequence[Job]], float]


def pilotlight(shape: str, device: torch.device, dtype: DType, jobs: Sequence[Job]) -> float:
    """Seconds from the first request to the last token."""
    engine = GpuEngine(shape, device, dtype, max_running=len(jobs))
    _serve(engine, [Job([1, 2, 3], 4)])
    started = time.perf_counter()
    produced = _serve(engine, jobs)
    seconds = time.perf_counter() - started
    wanted = sum(job.max_tokens for job in jobs)
    if produced != wanted:
        raise RuntimeError(f"{produced} tokens came, {wanted} were asked for")
    return seconds


def _serve(engine: GpuEngine, jobs: Sequence[Job]) -> int:
    engine.add(jobs)
    core, produced = engine.booted.core, 0
    while core.has_work:
        produced += sum(len(event.token_ids) for event in core.step())
    return produced


def transformers(shape: str, device: torch.device, dtype: DType, jobs: Sequence[Job]) -> float:
    """Seconds from the first request to the last token."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.peer_transformers import continuous

    with tempfile.TemporaryDirectory() as folder, device, redirect_stdout(sys.stderr):
        config = AutoConfig.from_pretrained(write_config(shape, Path(folder)))
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    with redirect_stdout(sys.stderr):
        seconds, _ = continuous(model.eval(), [{"ids": job.ids, "max_tokens": job.max_tokens} for job in jobs])
    return seconds


SIDES: dict[str, Side] = {"pilotlight": pilotlight, "transformers": transformers}


def measure(
    side: str, shape: str, device: torch.device, dtype: DType, jobs: Sequence[Job]
) -> dict[str, Any]:
    """Output tokens a second over the whole load."""
    seconds = SIDES[side](shape, device, dtype, jobs)
    tokens = sum(job.max_tokens for job in jobs)
    return {
        "side": side, "shape": shape, "requests": len(jobs), "prompt_tokens": sum(len(job.ids) for job in jobs),
        "output_tokens": tokens, "seconds": seconds, "output_tokens_per_s": tokens / seconds,
    }


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--lengths", type=int, nargs=2, default=(100, 1024), metavar=("LEAST", "MOST"))
    arguments = parser.parse_args()
    lengths = tuple(arguments.lengths)
    jobs = random_jobs(arguments.requests, SHAPES[arguments.shape]["vocab_size"], lengths, lengths)
    print(json.dumps(measure(arguments.side, arguments.shape, arguments.device, arguments.dtype, jobs)))


if __name__ == "__main__":
    main()
