"""Logits changed by what a request has said so far."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_COUNT = (
    ("tokens", "*i64"), ("stride", "i64"), ("rows", "*i64"), ("prompt_lengths", "*i64"), ("lengths", "*i64"),
    ("counts", "*i32"), ("vocabulary", "i32"),
)
_PENALISE = (
    ("logits", "*fp32"), ("counts", "*i32"), ("vocabulary", "i32"), ("presences", "*fp32"), ("frequencies", "*fp32"),
    ("repetitions", "*fp32"), ("penalised", "*fp32"),
)


@triton.jit(do_not_specialize=scalars(_COUNT))
def count_tokens(tokens, stride, rows, prompt_lengths, lengths, counts, vocabulary, CHUNK: tl.constexpr):
    """Add to `counts` [lines, vocabulary], of zeros: 2 x times in the output, + 1 for a token of the prompt.

    Programs: (chunks of the longest text, lines).
    """
    line = tl.program_id(1).to(tl.int64)
    positions = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    asked = positions < tl.load(prompt_lengths + line)
    inside = asked | (positions < tl.load(lengths + line))
    ids = tl.load(tokens + tl.load(rows + line) * stride + positions, mask=inside, other=0)
    places = counts + line * vocabulary + ids
    tl.atomic_or(places, 1, mask=asked)
    tl.atomic_add(places, 2, mask=inside & (asked == 0))


@triton.jit(do_not_specialize=scalars(_PENALISE))
def penalise_logits(
    logits, counts, vocabulary, presences, frequencies, repetitions, penalised, BLOCK: tl.constexpr
):
    """`penalised` [lines, vocabulary] = logits by their `counts`; `kernels.sampling.penalise` in one pass.

    Programs: (blocks, lines).
    """
    line = tl.program_id(1).to(tl.int64)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocabulary
    places = line * vocabulary + ids
    x = tl.load(logits + places, mask=inside, other=0.0)
    used = tl.load(counts + places, mask=inside, other=0)
    factor = tl.where(used > 0, tl.load(repetitions + line), 1.0)
    x = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
    said = (used >> 1).to(tl.float32)
    x = x - tl.load(frequencies + line) * said - tl.where(said > 0, tl.load(presences + line), 0.0)
    tl.store(penalised + places, x, mask=inside)


KERNELS = (
    KernelSpec("count_tokens", count_tokens, _COUNT, ("CHUNK",)),
    KernelSpec("penalise_logits", penalise_logits, _PENALISE, ("BLOCK",)),
)
