"""What this machine has and lacks, found out without loading a model."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from engine.errors import PilotlightError
from engine.machine import usable_memory, usable_threads

_ENVIRONMENT = ("PILOTLIGHT_", "RUNPOD_", "AWS_", "HF_", "CUDA_", "OMP_", "MODEL_", "MAX_")
_MIN_FREE_DISK = 1 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        required: without it nothing can be served.
    """

    name: str
    ok: bool
    detail: str
    required: bool = False


def examine() -> Iterator[Check]:
    """Every check, as it is made; importing torch takes most of the time."""
    yield _python()
    yield _torch()
    yield _cuda()
    yield _own_kernels()
    yield _cpu_kernels()
    yield _package("triton", "compiles the GPU kernels; not needed on a CPU")
    yield _package("cuda-bindings", "launches the GPU kernels; not needed on a CPU")
    yield _package("runpod", "RunPod's queue worker", required=True)
    yield _package("boto3", "S3; comes with runpod")
    yield _demo_model()
    yield _machine()
    yield _disk()
    yield _environment()


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), sys.version.split()[0], required=True)


def _torch() -> Check:
    started = time.monotonic()
    try:
        import torch
    except Exception as error:
        return Check("torch", False, f"cannot be imported: {error}", required=True)
    seconds = time.monotonic() - started
    return Check("torch", True, f"{torch.__version__}, imported in {seconds:.1f} s", required=True)


def _cuda() -> Check:
    if "torch" not in sys.modules:
        return Check("cuda", False, "unknown without torch")
    import torch

    if torch.version.cuda is None:
        return Check("cuda", False, "this torch is built for CPUs only")
    if not torch.cuda.is_available():
        return Check("cuda", False, f"torch is built for CUDA {torch.version.cuda}, but finds no device")
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    described = [f"{d.name}, sm_{d.major}{d.minor}, {d.total_memory / 2**30:.0f} GiB" for d in devices]
    return Check("cuda", True, "; ".join(described))


def _own_kernels() -> Check:
    """Hugging Face publishes a package named `kernels` too; theirs in front of ours would break every step."""
    import kernels

    ours = getattr(kernels, "PILOTLIGHT", False)
    return Check("kernels package", ours, f"{'ours' if ours else 'not ours'}, from {kernels.__file__}", required=True)


def _cpu_kernels() -> Check:
    if "torch" not in sys.modules:
        return Check("CPU kernels", False, "unknown without torch")
    from kernels.cpu.library import Library, load

    library = load()
    return Check("CPU kernels", isinstance(library, Library), library.describe())


def _package(name: str, purpose: str, required: bool = False) -> Check:
    try:
        return Check(name, True, f"{version(name)} ({purpose})", required)
    except PackageNotFoundError:
        return Check(name, False, f"not installed ({purpose})", required)


def _demo_model() -> Check:
    from engine.models import read_architecture
    from engine.source import find_model

    try:
        folder = find_model("demo")
        shape = read_architecture(folder)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    except PilotlightError as error:
        return Check("demo model", False, str(error), required=True)
    return Check("demo model", size > 0, f"context {shape.context}, {size / 2**20:.1f} MiB of weights", required=True)


def _machine() -> Check:
    return Check("machine", True, f"{usable_threads()} threads, {usable_memory() / 2**30:.1f} GiB may be used")


def _disk() -> Check:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= _MIN_FREE_DISK, f"{free / 2**30:.1f} GiB free in {folder}")


def _environment() -> Check:
    """Names only: values may be secrets."""
    names = sorted(name for name in os.environ if name.startswith(_ENVIRONMENT))
    return Check("environment", True, ", ".join(names) or "no variable set that Pilotlight or RunPod reads")
