"""Keeping freed memory in the process, on a CPU."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""

_LARGEST_KEPT = 32 << 20
"""glibc takes no larger threshold; a step's activations are smaller."""


def keep_freed_memory() -> None:
    """Tell the C library not to give the memory of freed tensors back to the system at once.

    Each step frees its activations and the next takes as much again. Given back in between, every page of them must be
    made and zeroed anew: 390,000 to 560,000 page faults in the 24-request benchmark in place of 84,000, and 5 to 10 %
    of its time. Where the C library is not glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, 1 << 30)
        mallopt(_TOP_PAD, 2 * _LARGEST_KEPT)
