"""Logits changed by what a request has said so far, and by what it was told to prefer or avoid."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_PENALISE = (
    ("logits", "*T"), ("stride", "i64"), ("vocabulary", "i32"), ("rows", "*i64"), ("count_rows", "*i32"),
    ("counts", "*i32"), ("presences", "*fp32"), ("frequencies", "*fp32"), ("repetitions", "*fp32"),
    ("adjusted", "*fp32"),
)
_EDIT = (
    ("adjusted", "*fp32"), ("vocabulary", "i32"), ("rows", "*i64"), ("positions", "*i64"), ("edit_counts", "*i32"),
    ("edit_ids", "*i32"), ("edit_values", "*fp32"), ("edit_ends", "*i64"), ("capacity", "i32"),
)
_RECORD = (
    ("tokens", "*i64"), ("rows", "*i64"), ("count_rows", "*i32"), ("counts", "*i32"), ("vocabulary", "i32"),
    ("lines", "i32"),
)


@triton.jit(do_not_specialize=scalars(_PENALISE))
def penalise_logits(
    logits, stride, vocabulary, rows, count_rows, counts, presences, frequencies, repetitions, adjusted,
    BLOCK: tl.constexpr,
):
    """`adjusted` [lines, vocabulary] = logits, penalised where the row counts; `kernels.sampling.penalise` in one pass.

    Programs: (blocks, lines). A count is 2 x times in the output + 1 if in the prompt.
    """
    line = tl.program_id(1).to(tl.int64)
    row = tl.load(rows + line)
    ids = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocabulary
    x = tl.load(logits + line * stride + ids, mask=inside, other=0.0).to(tl.float32)
    count_row = tl.load(count_rows + row).to(tl.int64)
    if count_row >= 0:
        used = tl.load(counts + count_row * vocabulary + ids, mask=inside, other=0)
        factor = tl.where(used > 0, tl.load(repetitions + row), 1.0)
        x = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
        said = (used >> 1).to(tl.float32)
        x = x - tl.load(frequencies + row) * said - tl.where(said > 0, tl.load(presences + row), 0.0)
    tl.store(adjusted + line * vocabulary + ids, x, mask=inside)


@triton.jit(do_not_specialize=scalars(_EDIT))
def edit_logits(
    adjusted, vocabulary, rows, positions, edit_counts, edit_ids, edit_values, edit_ends, capacity,
    CHUNK: tl.constexpr,
):
    """Add to single logits while the request is shorter than the edit's end. Programs: (lines,).

    Atomic, for a bias and a ban may meet on one id; any order of a number and minus infinity gives the same.
    """
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + line)
    position = tl.load(positions + row)
    size = tl.load(edit_counts + row)
    for first in range(0, size, CHUNK):
        lanes = first + tl.arange(0, CHUNK)
        place = row * capacity + lanes
        inside = lanes < size
        due = inside & (position < tl.load(edit_ends + place, mask=inside, other=0))
        ids = tl.load(edit_ids + place, mask=due, other=0)
        tl.atomic_add(adjusted + line * vocabulary + ids, tl.load(edit_values + place, mask=due, other=0.0), mask=due)


@triton.jit(do_not_specialize=scalars(_RECORD))
def record_tokens(tokens, rows, count_rows, counts, vocabulary, lines, CHUNK: tl.constexpr):
    """Count each line's new token where its row counts. Programs: (lines / CHUNK,)."""
    line = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    inside = line < lines
    row = tl.load(rows + line, mask=inside, other=0)
    count_row = tl.load(count_rows + row, mask=inside, other=-1).to(tl.int64)
    token = tl.load(tokens + line, mask=inside, other=0)
    tl.atomic_add(counts + count_row * vocabulary + token, 2, mask=inside & (count_row >= 0))


KERNELS = (
    KernelSpec("penalise_logits", penalise_logits, _PENALISE, ("BLOCK",)),
    KernelSpec("edit_logits", edit_logits, _EDIT, ("CHUNK",)),
    KernelSpec("record_tokens", record_tokens, _RECORD, ("CHUNK",)),
)
