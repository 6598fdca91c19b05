"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalise the last dimension of `x` to root mean square 1 and scale it by `weight`.

    Args:
        x: [..., size], any floating dtype; the mean is taken in float32.
        weight: [size], dtype of `x`.
    """
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Add `x` to the residual stream and normalise the sum.

    Returns:
        The normalised sum and the sum, both of the shape and dtype of `x`.
    """
    total = x + residual
    return rms_norm(total, weight, epsilon), total
