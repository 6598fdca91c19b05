"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout of Hugging Face."""

import torch
from torch import Tensor


def rotary_tables(
    inverse_frequencies: Tensor, positions: int, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines for every position.

    Args:
        inverse_frequencies: [head_dim / 2], float32, radians a position.
        scale: multiplies both tables (attention factor of YaRN, else 1).

    Returns:
        Two [positions, head_dim] tensors of `dtype`; the first half of the sines is negated, so that a rotation is
        `x * cosine + swapped_halves(x) * sine`.
    """
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse_frequencies.float().cpu())
    cosine, sine = angles.cos() * scale, angles.sin() * scale
    return torch.cat((cosine, cosine), dim=-1).to(dtype), torch.cat((-sine, sine), dim=-1).to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each head of each token by its position's angles.

    Args:
        x: [tokens, heads, head_dim].
        cosine, sine: [tokens, 1, head_dim], rows of `rotary_tables`.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((second, first), dim=-1) * sine
