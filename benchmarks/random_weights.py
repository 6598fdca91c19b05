"""Weights of any shape without a file: drawn where they are computed with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class RandomWeights:
    """Stands in for `engine.weights.Weights`; a matrix is drawn from a normal distribution, a vector is ones.

    Args:
        size: bytes that all tensors will take, for the plan.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, size: int, seed: int = 0) -> None:
        self.dtype = dtype
        self.bytes = size
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of that shape; the name does not matter."""
        if len(shape) == 1:
            return torch.ones(shape, dtype=self.dtype, device=self._device)
        drawn = torch.empty(shape, dtype=self.dtype, device=self._device)
        return drawn.normal_(0, 0.02, generator=self._generator)

    def fused(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> Tensor:
        """One tensor of the shapes' rows, one after the other."""
        rows, inputs = zip(*((shape[0], shape[1:]) for shape in shapes), strict=True)
        return self.take(",".join(names), (sum(rows), *inputs[0]))

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Nothing: every tensor is made when it is taken."""

    def finish(self) -> None:
        """Nothing: every tensor is there when it is taken."""
