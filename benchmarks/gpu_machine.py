"""What the machine with the GPU is and can do: the ceilings that everything else is held against."""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_PACKAGES = ("torch", "triton", "cuda-bindings", "transformers")


def describe(device: torch.device) -> dict[str, Any]:
    """The device, the software, and whether a compiler is at hand."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(), "python": platform.python_version(),
        "gcc": shutil.which("gcc"), **{name: _version(name) for name in _PACKAGES},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name, "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory, "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def start_times(device: torch.device) -> dict[str, float]:
    """Seconds that a fresh process takes to import torch, and to open the device after that."""
    program = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
        f"torch.zeros(1, device={str(device)!r}); c = time.perf_counter(); print(b - a, c - b)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    importing, opening = map(float, printed.split())
    return {"import_torch": importing, "open_device": opening}


def ceilings(device: torch.device, size: int, dtype: torch.dtype) -> dict[str, float]:
    """Bytes a second of a copy (read and written) and of reading alone, and operations a second of a matrix product.

    Args:
        size: bytes of the buffers; several times the device's largest cache.
    """
    source = torch.empty(size // dtype.itemsize, dtype=dtype, device=device).normal_()
    target = torch.empty_like(source)
    side = int((size // dtype.itemsize // 8) ** 0.5) // 128 * 128 or 128
    left = source[: side * side].view(side, side)
    right = torch.empty_like(left).normal_()
    return {
        "copy_bytes_per_s": 2 * source.nbytes / seconds(lambda: target.copy_(source), device),
        "read_bytes_per_s": source.nbytes / seconds(lambda: torch.mv(source.view(-1, 4096), source[:4096]), device),
        "operations_per_s": 2 * side**3 / seconds(lambda: torch.mm(left, right), device),
    }


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Median seconds of `work`, by the device's clock where it has one; warmed up first."""
    for _ in range(3):
        work()
    return statistics.median(_once(work, device) for _ in range(repeats))


def _once(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000
