"""Compiled kernels to test with: every one that CI compiled just before, else one variant of each kernel."""

from __future__ import annotations

import os
from pathlib import Path

from kernels.gpu.specification import Variant
from kernels.gpu.variants import every_shape, variants_of
from kernels.precompile import precompile

EVERY = os.environ.get("PILOTLIGHT_COMPILED_KERNELS")
"""A folder that holds every variant for 9.0 and those of two models for other architectures."""


def one_of_each() -> list[Variant]:
    found: dict[str, Variant] = {}
    for variant in variants_of(every_shape(["float16"], 16)):
        found.setdefault(variant.kernel, variant)
    return list(found.values())


def compiled_kernels(folder: Path) -> Path:
    if EVERY:
        return Path(EVERY)
    precompile(one_of_each(), [90], folder, jobs=1)
    return folder

