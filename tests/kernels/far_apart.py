"""Caches whose pages lie so far apart that 32 bits do not reach the last one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

_STRIDE = 3 << 29
"""Elements from a page to the next: the third page starts at 3 x 2^30, beyond 2^31."""


def far_apart(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of few pages with NaN in them; what lies between is reserved but, on a CPU, never becomes memory."""
    pages, *page = size
    contiguous = torch.empty(page, device="meta").stride()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        storage = torch.empty(_STRIDE * (pages - 1) + torch.Size(page).numel(), dtype=dtype, device=device)
    return storage.as_strided(size, (_STRIDE, *contiguous)).fill_(float("nan"))
