"""The kernels' Triton source: imported when kernels are compiled and in development, never in service."""

from __future__ import annotations

from importlib import import_module

from kernels.gpu.specification import KernelSpec

_FILES = ("activation", "attention", "gather", "linear", "norm", "penalties", "rotary", "sampling")


def specifications() -> dict[str, KernelSpec]:
    """Every kernel by name: each file of this package that holds kernels lists them in its `KERNELS`."""
    files = [import_module(f"{__name__}.{file}") for file in _FILES]
    return {spec.name: spec for file in files for spec in file.KERNELS}
