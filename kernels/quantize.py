"""Weights in fewer bits: round to nearest, symmetric, with a scale per output channel (int8) or group of inputs (int4).

How int4 is packed: a group of `size` inputs of one output is `size` / 2 bytes; byte j holds input j in its low half and
input j + `size` / 2 in its high half, each plus 8 (so 1 to 15; 8 is zero). Unpacking a block of bytes then gives two
blocks of neighbouring inputs, and nothing has to change places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_SIZES = (64, 128)
"""Inputs that share a scale in int4."""

_INT8_LIMIT = 127
_INT4_LIMIT = 7
_INT4_ZERO = 8


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix of [outputs, inputs] in 8 or 4 bits.

    Attributes:
        values: int8 [outputs, inputs], or uint8 [outputs, inputs / 2], packed as the module says.
        scales: what a step of a value is worth, float32: [outputs] for int8; [inputs / group size, outputs] for int4,
            so that the scales of neighbouring outputs, which are needed together, lie together.
    """

    values: Tensor
    scales: Tensor

    @property
    def bits(self) -> int:
        return 8 if self.values.dtype == torch.int8 else 4

    @property
    def outputs(self) -> int:
        return self.values.shape[0]

    @property
    def inputs(self) -> int:
        return self.values.shape[1] * (8 // self.bits)

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.inputs if self.bits == 8 else self.inputs // self.scales.shape[0]

    @property
    def bytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes


Matrix = Tensor | QuantizedWeight
"""A projection's weight, as stored."""


def quantize_int8(weight: Tensor) -> QuantizedWeight:
    """A matrix [outputs, inputs] with a scale per output; the error of an element is at most half its scale."""
    weight = weight.float()
    scales = _scales(weight.abs().amax(-1), _INT8_LIMIT)
    return QuantizedWeight((weight / scales[:, None]).round().to(torch.int8), scales)


def quantize_int4(weight: Tensor, group_size: int = 64) -> QuantizedWeight:
    """A matrix [outputs, inputs] with a scale per output and group of inputs.

    Raises:
        ValueError: the group size is none of `GROUP_SIZES`, or the inputs are not whole groups.
    """
    outputs, inputs = weight.shape
    if group_size not in GROUP_SIZES or inputs % group_size:
        raise ValueError(f"{inputs} inputs in groups of {group_size}: groups are {GROUP_SIZES} long, and whole")
    groups = weight.float().view(outputs, -1, group_size)
    scales = _scales(groups.abs().amax(-1), _INT4_LIMIT)
    steps = (groups / scales[..., None]).round().to(torch.int8) + _INT4_ZERO
    low, high = steps.to(torch.uint8).chunk(2, dim=-1)
    return QuantizedWeight((low | high << 4).flatten(1), scales.T.contiguous())


def dequantize(weight: QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix [outputs, inputs] that the values stand for."""
    if weight.bits == 8:
        return (weight.values.float() * weight.scales[:, None]).to(dtype)
    packed = weight.values.view(weight.outputs, -1, weight.group_size // 2)
    steps = torch.cat((packed & 15, packed >> 4), dim=-1).float() - _INT4_ZERO
    return (steps * weight.scales.T[..., None]).flatten(1).to(dtype)


def quantized_linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """[tokens, inputs] by a weight of [outputs, inputs] to [tokens, outputs], in float32 and then the dtype of `x`."""
    out = x.float() @ dequantize(weight).T
    return (out if bias is None else out + bias.float()).to(x.dtype)


def _scales(largest: Tensor, limit: int) -> Tensor:
    """1 where all is zero, so that nothing is divided by nothing."""
    return torch.where(largest > 0, largest / limit, 1.0)
