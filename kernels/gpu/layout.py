"""What kernels take for granted about tensors' layouts, and the numbers by which they are told the rest."""

from __future__ import annotations

from torch import Tensor

from kernels.gpu.specification import UnsupportedShape

GROUP = 16
"""Row lengths are passed in groups of so many elements, so that the code knows that rows start on 16 bytes."""


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`: what a Triton block is long."""
    return 1 << (size - 1).bit_length()


def ceil_div(size: int, part: int) -> int:
    """How many parts cover `size`."""
    return -(-size // part)


def misfit(what: str, size: int) -> str | None:
    """Why rows of so many elements are not taken, in words; None where they are."""
    return f"{what} of {size}, no multiple of {GROUP}" if size % GROUP else None


def groups(size: int) -> int:
    """A row's length in groups.

    Raises:
        UnsupportedShape: it is not a whole number of them.
    """
    reason = misfit("rows", size)
    if reason is not None:
        raise UnsupportedShape(reason)
    return size // GROUP


def cache_strides(key_cache: Tensor, value_cache: Tensor) -> tuple[int, int, int]:
    """From one page, slot and head of the caches to the next, in heads of head_dim elements.

    Args:
        key_cache, value_cache: [pages, page_size, kv_heads, head_dim], views of any strides that are whole heads.

    Raises:
        UnsupportedShape: heads are not contiguous or not aligned with each other, or the caches differ in layout.
    """
    head_dim = key_cache.shape[-1]
    strides = key_cache.stride()
    groups(head_dim)
    if strides[3] != 1 or any(stride % head_dim for stride in strides[:3]) or value_cache.stride() != strides:
        raise UnsupportedShape(f"caches of strides {strides} and {value_cache.stride()} with heads of {head_dim}")
    return strides[0] // head_dim, strides[1] // head_dim, strides[2] // head_dim
