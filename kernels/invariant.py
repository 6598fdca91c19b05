"""A projection in which a token's result does not depend on its company.

Libraries choose a product's program by the number of its rows: another tile, another split of the sum, other last
bits. Here every product has the same 64 rows, the last ones filled up with zeros, so the program is always the same.
64, because cuBLAS deals that many tokens to a tile or more: with all rows in one tile, a row's place in it decides
nothing either. (NVIDIA promises equal bits for equal calls on equal devices, cuBLAS documentation, "Results
Reproducibility"; that a row's bits do not depend on the others is tested on the device, not promised.)

The cost is that weights are read again for every 64 tokens. A batch of up to 64 decodes waits for one such reading
anyway; 256 decodes take up to four times as long, and a prompt is computed at 64 x bandwidth / weight bytes tokens a
second, on an H200 about a third of what its matrix units can do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.operations import Linear

ROWS = 64
"""Of every product."""


class InvariantLinear:
    """A projection, by another that only ever sees `ROWS` tokens; see `kernels.operations.Linear`."""

    def __init__(self, linear: Linear) -> None:
        self._linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        tokens = len(x)
        filled = pad(x, (0, 0, 0, -tokens % ROWS))
        return torch.cat([self._linear(part) for part in filled.split(ROWS)])[:tokens]

    def pack(self) -> None:
        """Lay the weight out for speed, if that is to be had."""
        self._linear.pack()
