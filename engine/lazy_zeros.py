"""Zeros that take memory, and time, only when they are first written."""

from __future__ import annotations

import math
from mmap import mmap

import torch
from torch import Tensor


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros of that shape; on a CPU nothing stands behind a page of them yet: `torch.zeros` would write them all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)
