"""Decode steps against their floor: what the bytes and the operations take at the device's measured rates.

`python -m benchmarks.gpu_decode SHAPE --device cuda` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_engine import GpuEngine, layer_parameters, random_jobs
from benchmarks.gpu_machine import ceilings
from engine.models.architecture import Architecture

_WARM_STEPS = 8
_PROFILED_STEPS = 20


def step_floor(
    shape: Architecture, batch: int, context: float, value_bytes: int, rates: Mapping[str, float]
) -> dict[str, float]:
    """The least seconds a decode step can take, and the bytes it must read (DESIGN.md, section 6).

    Args:
        context: mean tokens a request has in the cache.
        rates: `read_bytes_per_s`, `copy_bytes_per_s` and `operations_per_s`, as measured.
    """
    used = layer_parameters(shape) + shape.vocab_size * shape.hidden_size
    bandwidth = max(rates["read_bytes_per_s"], rates["copy_bytes_per_s"])
    weights = max(used * value_bytes / bandwidth, 2 * used * batch / rates["operations_per_s"])
    cache_bytes = batch * context * shape.cache_values_per_token * value_bytes
    return {"floor_s": weights + cache_bytes / bandwidth, "bytes": used * value_bytes + cache_bytes}


def measure(
    engine: GpuEngine, batch: int, prompt: int, steps: int, rates: Mapping[str, float], device: torch.device
) -> dict[str, Any]:
    """Seconds a decode step at this batch, with what share of the floor that is and how long the device was idle."""
    core, shape = engine.booted.core, engine.architecture
    length = _WARM_STEPS + steps + _PROFILED_STEPS + 4
    engine.add(random_jobs(batch, shape.vocab_size, (prompt, prompt), (length, length), seed=batch))
    while any(request.prefilling for request in core.scheduler.running) or core.scheduler.waiting_count:
        core.step()
    for _ in range(_WARM_STEPS):
        core.step()
    context = sum(request.computed for request in core.scheduler.running) / batch + steps / 2
    seconds = _timed(engine, steps, device)
    idle = _idle_share(engine) if device.type == "cuda" else None
    while core.has_work:
        core.step()
    floor = step_floor(shape, batch, context, _value_bytes(engine), rates)
    return {
        "batch": batch, "context": context, "step_s": seconds, **floor, "share_of_floor": floor["floor_s"] / seconds,
        "bytes_per_s": floor["bytes"] / seconds, "tokens_per_s": batch / seconds, "device_idle_share": idle,
    }


def _value_bytes(engine: GpuEngine) -> int:
    return torch.finfo(getattr(torch, engine.booted.plan.dtype)).bits // 8


def _timed(engine: GpuEngine, steps: int, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        engine.booted.core.step()
    _wait(device)
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _idle_share(engine: GpuEngine) -> float:
    """The share of some steps' time in which no kernel and no copy ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(_PROFILED_STEPS):
            engine.booted.core.step()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end) for event in recorded.events()
        if event.device_type is DeviceType.CUDA
    )
    return idle_share(spans)


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Of the time from the first span's start to the last one's end, the share that no span covers.

    Args:
        spans: (start, end), sorted by start; they may overlap.
    """
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - busy / (reached - spans[0][0])


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--buffer", type=int, default=4 << 30, help="bytes of the buffers that measure the ceilings")
    arguments = parser.parse_args()
    device: torch.device = arguments.device
    rates = ceilings(device, arguments.buffer, getattr(torch, arguments.dtype))
    engine = GpuEngine(arguments.shape, device, arguments.dtype, max(arguments.batches))
    steps = [
        measure(engine, batch, arguments.prompt, arguments.steps, rates, device) for batch in arguments.batches
    ]
    compilations = engine.booted.core.compilations
    print(json.dumps({
        "shape": arguments.shape, "ceilings": rates, "decode": steps, "compilations": compilations,
    }))


if __name__ == "__main__":
    main()
