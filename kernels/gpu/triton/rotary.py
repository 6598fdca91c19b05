"""Query and key heads normalised, rotated and put where they are needed, in one pass over the fused projection."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_ROTATE_AND_CACHE = (
    ("heads", "*T"), ("query_weight", "*T"), ("key_weight", "*T"), ("cosine", "*T"), ("sine", "*T"),
    ("positions", "*i64"), ("slots", "*i64"), ("query", "*T"), ("key_cache", "*T"), ("value_cache", "*T"),
    ("query_heads", "i32"), ("kv_heads", "i32"), ("page_stride", "i64"), ("slot_stride", "i64"),
    ("head_stride", "i64"), ("epsilon", "fp32"),
)


@triton.jit
def _normalised_halves(first, second, query_weight, key_weight, is_query, columns, inside, epsilon,
                       HALF: tl.constexpr):
    """Both halves of heads at root mean square 1, scaled by the weight of their kind."""
    squares = tl.sum(first * first + second * second, axis=1)
    scale = tl.rsqrt(squares / (2 * HALF) + epsilon)[:, None]
    query_first = tl.load(query_weight + columns, mask=inside, other=0.0).to(tl.float32)
    query_second = tl.load(query_weight + HALF + columns, mask=inside, other=0.0).to(tl.float32)
    key_first = tl.load(key_weight + columns, mask=inside, other=0.0).to(tl.float32)
    key_second = tl.load(key_weight + HALF + columns, mask=inside, other=0.0).to(tl.float32)
    weight_first = tl.where(is_query[:, None], query_first[None, :], key_first[None, :])
    weight_second = tl.where(is_query[:, None], query_second[None, :], key_second[None, :])
    return first * scale * weight_first, second * scale * weight_second


@triton.jit(do_not_specialize=scalars(_ROTATE_AND_CACHE))
def rotate_and_cache(
    heads, query_weight, key_weight, cosine, sine, positions, slots, query, key_cache, value_cache,
    query_heads, kv_heads, page_stride, slot_stride, head_stride, epsilon,
    HALF: tl.constexpr, COLUMNS: tl.constexpr, HEADS: tl.constexpr, PAGE_SIZE: tl.constexpr, NORM: tl.constexpr,
):
    """One token and `HEADS` of its heads a program; heads are 2 x `HALF` elements, `COLUMNS` the next power of two.

    Strides of the caches are in heads. A head's halves are held apart, so that a rotation needs no shuffle. A program
    may hold heads of all three kinds: every head is rotated, and its kind chooses what is stored and where to.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    is_query = head < query_heads
    is_key = (head >= query_heads) & (head < query_heads + kv_heads)
    is_value = (head >= query_heads + kv_heads) & (head < query_heads + 2 * kv_heads)
    columns = tl.arange(0, COLUMNS)
    inside = columns < HALF
    known = (head < query_heads + 2 * kv_heads)[:, None] & inside[None, :]

    source = heads + ((token * (query_heads + 2 * kv_heads) + head) * (2 * HALF))[:, None] + columns[None, :]
    first = tl.load(source, mask=known, other=0.0)
    second = tl.load(source + HALF, mask=known, other=0.0)

    slot = tl.load(slots + token)
    kv_head = tl.where(is_key, head - query_heads, head - query_heads - kv_heads)
    vector = (slot // PAGE_SIZE) * page_stride + (slot % PAGE_SIZE) * slot_stride + kv_head * head_stride
    stored = (vector * (2 * HALF))[:, None] + columns[None, :]
    tl.store(value_cache + stored, first, mask=known & is_value[:, None])
    tl.store(value_cache + stored + HALF, second, mask=known & is_value[:, None])

    first, second = first.to(tl.float32), second.to(tl.float32)
    if NORM:
        first, second = _normalised_halves(
            first, second, query_weight, key_weight, is_query, columns, inside, epsilon, HALF
        )
    # The tables repeat each angle in both halves; the sines of the first half are the negated ones.
    angle = tl.load(positions + token) * (2 * HALF) + columns
    cosines = tl.load(cosine + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    sines = tl.load(sine + HALF + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    turned_first, turned_second = first * cosines - second * sines, second * cosines + first * sines

    returned = query + ((token * query_heads + head) * (2 * HALF))[:, None] + columns[None, :]
    tl.store(returned, turned_first, mask=known & is_query[:, None])
    tl.store(returned + HALF, turned_second, mask=known & is_query[:, None])
    tl.store(key_cache + stored, turned_first, mask=known & is_key[:, None])
    tl.store(key_cache + stored + HALF, turned_second, mask=known & is_key[:, None])


KERNELS = (
    KernelSpec(
        "rotate_and_cache", rotate_and_cache, _ROTATE_AND_CACHE, ("HALF", "COLUMNS", "HEADS", "PAGE_SIZE", "NORM")
    ),
)
