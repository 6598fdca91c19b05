"""Few rows or numbers taken from many: hidden states of the tokens that are sampled, and log probabilities."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_INFINITY = tl.constexpr(float("inf"))

_GATHER_ROWS = (("source", "*T"), ("stride", "i64"), ("indices", "*i64"), ("out", "*T"), ("size", "i32"))
_MEASURE_TOKENS = (
    ("logits", "*T"), ("stride", "i64"), ("vocabulary", "i32"), ("tokens", "*i64"), ("highest", "*fp32"),
    ("masses", "*fp32"), ("aboves", "*i32"),
)
_MERGE_TOKENS = (*_MEASURE_TOKENS, ("blocks", "i32"), ("logprobs", "*fp32"), ("ranks", "*i64"))


@triton.jit(do_not_specialize=scalars(_GATHER_ROWS))
def gather_rows(source, stride, indices, out, size, BLOCK: tl.constexpr):
    """`out` [lines, size] = rows of `source`; zeros where the index is negative. Programs: (blocks, lines)."""
    line = tl.program_id(1).to(tl.int64)
    index = tl.load(indices + line)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(source + index * stride + columns, mask=(columns < size) & (index >= 0), other=0.0)
    tl.store(out + line * size + columns, row, mask=columns < size)


@triton.jit
def weight_of(x, highest):
    """exp(x - highest), and 0 for minus infinity even where nothing is higher."""
    return tl.exp(x - tl.maximum(highest, -3e38))


@triton.jit(do_not_specialize=scalars(_MEASURE_TOKENS))
def measure_tokens(logits, stride, vocabulary, tokens, highest, masses, aboves, BLOCK: tl.constexpr):
    """For each block of a line: the highest logit, the weight of all against it, and how many are above the token's.

    Programs: (blocks, lines). `highest`, `masses`, `aboves`: [lines, blocks].
    """
    line = tl.program_id(1).to(tl.int64)
    logits += line * stride
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + ids, mask=ids < vocabulary, other=-_INFINITY).to(tl.float32)
    own = tl.load(logits + tl.load(tokens + line)).to(tl.float32)
    top = tl.max(x, axis=0)
    place = line * tl.num_programs(0) + tl.program_id(0)
    tl.store(highest + place, top)
    tl.store(masses + place, tl.sum(weight_of(x, top), axis=0))
    tl.store(aboves + place, tl.sum((x > own).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=scalars(_MERGE_TOKENS))
def merge_tokens(
    logits, stride, vocabulary, tokens, highest, masses, aboves, blocks, logprobs, ranks, PARTS: tl.constexpr
):
    """Log probability and rank of each line's token from what its blocks found. Programs: (lines,)."""
    line = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, PARTS)
    top = tl.full((PARTS,), -_INFINITY, tl.float32)
    mass = tl.zeros((PARTS,), tl.float32)
    above = tl.zeros((PARTS,), tl.int32)
    for first in range(0, blocks, PARTS):
        inside = first + lanes < blocks
        place = line * blocks + first + lanes
        other = tl.load(highest + place, mask=inside, other=-_INFINITY)
        higher = tl.maximum(top, other)
        other_mass = tl.load(masses + place, mask=inside, other=0.0)
        mass = mass * weight_of(top, higher) + other_mass * weight_of(other, higher)
        top = higher
        above += tl.load(aboves + place, mask=inside, other=0)
    most = tl.max(top, axis=0)
    total = tl.log(tl.sum(mass * weight_of(top, most), axis=0))
    own = tl.load(logits + line * stride + tl.load(tokens + line)).to(tl.float32)
    tl.store(logprobs + line, own - most - total)
    tl.store(ranks + line, tl.sum(above, axis=0).to(tl.int64) + 1)


KERNELS = (
    KernelSpec("gather_rows", gather_rows, _GATHER_ROWS, ("BLOCK",)),
    KernelSpec("measure_tokens", measure_tokens, _MEASURE_TOKENS, ("BLOCK",)),
    KernelSpec("merge_tokens", merge_tokens, _MERGE_TOKENS, ("PARTS",)),
)
