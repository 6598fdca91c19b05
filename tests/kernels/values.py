"""Values to pass to compiled kernels; nothing heavy is imported for them."""

from __future__ import annotations

from kernels.gpu.index import Binary, Index


def binary_of_each(index: Index) -> list[Binary]:
    """One binary of each kernel for Hopper; not told by its file, which variants with the same code share."""
    return list({binary.kernel: binary for binary in index.binaries if binary.target == "sm_90a"}.values())


def values_for(binary: Binary) -> list[int | float]:
    """Of each argument's type, and different from argument to argument."""
    return [value_for(kind, place) for place, (_, kind) in enumerate(binary.arguments)]


def value_for(kind: str, place: int) -> int | float:
    if kind == "fp32":
        return 0.5 + place
    if kind == "i32":
        return -place - 1
    return 0x1122334455667700 + 16 * place
