"""Chance that depends on the seed and the moment alone: the same start is as long under every policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmup.history import Floats

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""SplitMix64's constants (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""


def draws(moments: Floats, seed: int) -> Floats:
    """Two numbers from 0 to 1 (without) for each moment, shape [moments, 2]."""
    import numpy as np

    bits = np.ascontiguousarray(moments, np.float64).view(np.uint64)
    with np.errstate(over="ignore"):
        keys = bits[:, None] + np.uint64(seed % (1 << 32)) * np.uint64(_STEP) + np.array([1, 2], np.uint64)
        mixed = keys * np.uint64(_STEP)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64 * (1 - 2.0**-52)
