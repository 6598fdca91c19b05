"""Projections by weights of 8 or 4 bits for few tokens: the weight is read once, and widened in registers.

Programs: (blocks of outputs, splits of the inputs). Each holds all of up to 64 tokens, so the weight crosses the
memory bus once; where outputs are too few to occupy the device, the inputs are split, each split writes float32 sums
of its own, and `add_splits` adds them in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_INT8 = (
    ("x", "*T"), ("values", "*i8"), ("scales", "*fp32"), ("bias", "*T"), ("out", "*O"), ("tokens", "i32"),
    ("outputs", "i32"), ("groups", "i32"), ("split_groups", "i32"),
)
_INT4 = (
    ("x", "*T"), ("values", "*u8"), ("scales", "*fp32"), ("bias", "*T"), ("out", "*O"), ("tokens", "i32"),
    ("outputs", "i32"), ("groups", "i32"), ("split_groups", "i32"),
)
_ADD_SPLITS = (
    ("sums", "*fp32"), ("bias", "*T"), ("out", "*T"), ("tokens", "i32"), ("outputs", "i32"), ("splits", "i32"),
)


@triton.jit
def write_sums(
    sums, bias, out, tokens, outputs, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, SPLIT: tl.constexpr
):
    """A program's [TOKENS, OUTPUTS]: the result with its bias, or a split's part of it in float32."""
    lines = tl.arange(0, TOKENS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = (lines[:, None] < tokens) & (columns[None, :] < outputs)
    place = lines[:, None].to(tl.int64) * outputs + columns[None, :]
    if SPLIT:
        place += tl.program_id(1).to(tl.int64) * tokens * outputs
    else:
        sums += tl.load(bias + columns, mask=columns < outputs, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, sums, mask=inside)


@triton.jit(do_not_specialize=scalars(_INT8))
def int8_linear(
    x, values, scales, bias, out, tokens, outputs, groups, split_groups,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, SPLIT: tl.constexpr,
):
    """`x` [tokens, 16 x groups] by `values` [outputs, 16 x groups]; a split has `split_groups` x 16 inputs.

    The scale of an output is the same for all its inputs, so it multiplies the sum.
    """
    lines = tl.arange(0, TOKENS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    size = groups * 16
    first = tl.program_id(1) * split_groups
    end = tl.minimum(first + split_groups, groups) * 16
    x_rows = x + lines[:, None].to(tl.int64) * size
    value_rows = values + tl.minimum(columns, outputs - 1)[:, None].to(tl.int64) * size
    sums = tl.zeros((TOKENS, OUTPUTS), tl.float32)
    for start in range(first * 16, end, INPUTS):
        inputs = start + tl.arange(0, INPUTS)[None, :]
        weight = tl.load(value_rows + inputs, mask=inputs < end, other=0).to(x.dtype.element_ty)
        part = tl.load(x_rows + inputs, mask=(lines[:, None] < tokens) & (inputs < end), other=0.0)
        sums = tl.dot(part, tl.trans(weight), sums, input_precision="ieee")
    sums *= tl.load(scales + columns, mask=columns < outputs, other=0.0)[None, :]
    write_sums(sums, bias, out, tokens, outputs, TOKENS, OUTPUTS, SPLIT)


@triton.jit(do_not_specialize=scalars(_INT4))
def int4_linear(
    x, values, scales, bias, out, tokens, outputs, groups, split_groups,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr,
):
    """`x` [tokens, GROUP x groups] by `values` [outputs, GROUP / 2 x groups], packed as `kernels.quantize` says.

    A group a turn: its low halves meet the first half of its inputs, its high halves the second.
    """
    HALF: tl.constexpr = GROUP // 2
    lines = tl.arange(0, TOKENS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    first = tl.program_id(1) * split_groups
    halves = tl.arange(0, HALF)[None, :]
    x_rows = x + lines[:, None].to(tl.int64) * groups * GROUP
    value_rows = values + tl.minimum(columns, outputs - 1)[:, None].to(tl.int64) * groups * HALF
    sums = tl.zeros((TOKENS, OUTPUTS), tl.float32)
    for group in range(first, tl.minimum(first + split_groups, groups)):
        packed = tl.load(value_rows + group * HALF + halves)
        low = ((packed & 15).to(tl.int8) - 8).to(x.dtype.element_ty)
        high = ((packed >> 4).to(tl.int8) - 8).to(x.dtype.element_ty)
        x_low = tl.load(x_rows + group * GROUP + halves, mask=lines[:, None] < tokens, other=0.0)
        x_high = tl.load(x_rows + group * GROUP + HALF + halves, mask=lines[:, None] < tokens, other=0.0)
        steps = tl.dot(x_low, tl.trans(low), input_precision="ieee")
        steps = tl.dot(x_high, tl.trans(high), steps, input_precision="ieee")
        scale = tl.load(scales + group * outputs + columns, mask=columns < outputs, other=0.0)
        sums += steps * scale[None, :]
    write_sums(sums, bias, out, tokens, outputs, TOKENS, OUTPUTS, SPLIT)


@triton.jit(do_not_specialize=scalars(_ADD_SPLITS))
def add_splits(sums, bias, out, tokens, outputs, splits, BLOCK: tl.constexpr):
    """`out` [tokens, outputs] = the sum of `sums` [splits, tokens, outputs] and the bias.

    Programs: (blocks of outputs, tokens).
    """
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < outputs
    place = tl.program_id(1).to(tl.int64) * outputs + columns
    total = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    for split in range(splits):
        total += tl.load(sums + place + split * tokens.to(tl.int64) * outputs, mask=inside, other=0.0)
    tl.store(out + place, total, mask=inside)


KERNELS = (
    KernelSpec("int8_linear", int8_linear, _INT8, ("TOKENS", "OUTPUTS", "INPUTS", "SPLIT")),
    KernelSpec("int4_linear", int4_linear, _INT4, ("TOKENS", "OUTPUTS", "GROUP", "SPLIT")),
    KernelSpec("add_splits", add_splits, _ADD_SPLITS, ("BLOCK",)),
)
