"""Projections by weights of 8 or 4 bits on the GPU; what they compute is `kernels.quantize.quantized_linear`.

Why only for few tokens, by counting. A step of decode reads each weight once and does 2 x tokens operations with it. An
H200 reads 4.8 TB/s and does about 990 TFLOP/s in bfloat16, so up to 100 tokens for int8 and 50 for int4 the memory is
what takes the time, and a weight of half or a quarter the bytes (plus a float32 scale for 64 or 128 inputs: 4.5 or
4.25 bits a weight in int4) is that much faster at best. With more tokens the matrix units are, and there cuBLAS on the
widened matrix is the better program: over `MOST_TOKENS` the weight is widened once a call and torch multiplies.

To read at that rate about 3.4 MB must be under way (4.8 TB/s x 0.7 us), 25 KB a processor. A turn of the loop reads
64 outputs x 128 inputs, 8 KB in int8 and 4 KB in int4 (2 KB in groups of 64); up to 16 tokens three to five turns are
read ahead, by four programs a processor, which is 96 or 80 KB. With 64 tokens the inputs take most of the shared
memory, so fewer are read ahead: 99 KB is what the devices 8.6, 8.9 and 12.0 have. These are sums, not measurements.

A kernel without matrix units for one to four tokens would read the same bytes; it is left out, because by that count
nothing is gained, and a token's result would depend on its company.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from kernels.gpu import layout
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import GROUP, ceil_div, groups, power_of_two
from kernels.gpu.specification import Constant, ModelShape, Variant
from kernels.quantize import GROUP_SIZES, QuantizedWeight, dequantize

MOST_TOKENS = 64
"""More are multiplied by torch."""

_OUTPUTS = 64
_INPUTS = 128
_PROGRAMS = 4
"""Programs wanted a processor."""

_STAGES = {(8, 16): 4, (8, 32): 4, (8, 64): 3, (4, 16): 6, (4, 32): 4, (4, 64): 3}
"""Stages of the pipeline by bits of a weight and rows of inputs; one more than turns read ahead."""

_ADD_BLOCK = 512


class QuantizedLinear:
    """A projection by a quantised weight; see `kernels.operations.Linear`.

    How the inputs are split depends on the weight's shape alone, so that a token's result does not on its company.

    Args:
        bias: [outputs], of the inputs' dtype, or None.
        processors: multiprocessors of the device.

    Raises:
        UnsupportedShape: the inputs are no multiple of 16.
    """

    def __init__(
        self, launcher: Launcher, weight: QuantizedWeight, bias: Tensor | None, processors: int
    ) -> None:
        self._launcher = launcher
        self._weight = weight
        self._bias = bias
        # In int8 a unit of the split is a turn of the loop, in int4 a group of inputs.
        self._unit = _INPUTS if weight.bits == 8 else weight.group_size
        self._units = ceil_div(weight.inputs, self._unit)
        groups(weight.inputs)
        wanted = _PROGRAMS * processors // ceil_div(weight.outputs, _OUTPUTS)
        self._split_units = ceil_div(self._units, min(max(wanted, 1), self._units))

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        if len(x) > MOST_TOKENS:
            return functional.linear(x, dequantize(self._weight, x.dtype), self._bias)
        splits = ceil_div(self._units, self._split_units)
        out = x.new_empty(len(x), self._weight.outputs)
        if splits == 1:
            self._multiply(x, out, splits)
            return out
        sums = x.new_empty(splits, *out.shape, dtype=torch.float32)
        self._multiply(x, sums, splits)
        self._launcher.launch(
            "add_splits", _add_constants(), (ceil_div(out.shape[1], _ADD_BLOCK), len(x), 1),
            (sums, self._bias_like(x), out, *out.shape, splits),
        )
        return out

    def pack(self) -> None:
        """Nothing: the weight is as the kernels want it."""

    def _bias_like(self, x: Tensor) -> Tensor:
        """The bias; zeros, made once, where there is none, since the kernels always add one."""
        if self._bias is None:
            self._bias = x.new_zeros(self._weight.outputs)
        return self._bias

    def _multiply(self, x: Tensor, out: Tensor, splits: int) -> None:
        weight = self._weight
        length = GROUP if weight.bits == 8 else weight.group_size
        arguments = (
            x.contiguous(), weight.values, weight.scales, self._bias_like(x), out, len(x), weight.outputs,
            weight.inputs // length, self._split_units * self._unit // length,
        )
        constants = _constants(weight.bits, len(x), weight.group_size, splits > 1)
        grid = (ceil_div(weight.outputs, _OUTPUTS), splits, min(len(x), 1))
        self._launcher.launch(f"int{weight.bits}_linear", constants, grid, arguments)


def misfit(shape: ModelShape) -> str | None:
    """What of a model's shape no kernel is written for; None where all is well."""
    rows = (shape.hidden_size, shape.intermediate_size, shape.heads * shape.head_dim)
    return next(filter(None, (layout.misfit("inputs", size) for size in rows)), None)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for, in each of the formats."""
    formats = [(8, _INPUTS), *((4, size) for size in GROUP_SIZES)]
    for bits, group_size in formats:
        for tokens in (16, 32, 64):
            for split in (False, True):
                types = {"T": shape.dtype, "O": "fp32" if split else shape.dtype}
                yield Variant(f"int{bits}_linear", _constants(bits, tokens, group_size, split), types)
    yield Variant("add_splits", _add_constants(), {"T": shape.dtype})


def _constants(bits: int, tokens: int, group_size: int, split: bool) -> dict[str, Constant]:
    rows = max(power_of_two(tokens), 16)
    length: dict[str, Constant] = {"INPUTS": _INPUTS} if bits == 8 else {"GROUP": group_size}
    return {
        "TOKENS": rows, "OUTPUTS": _OUTPUTS, **length, "SPLIT": int(split),
        "num_warps": 4, "num_stages": _STAGES[bits, rows],
    }


def _add_constants() -> dict[str, Constant]:
    return {"BLOCK": _ADD_BLOCK, "num_warps": 4, "num_stages": 1}
