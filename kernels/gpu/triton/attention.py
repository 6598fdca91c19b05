"""Attention over paged keys and values: prompt chunks and decodes in one kernel, and the merge of split decodes.

Sources. FlashAttention-2 (Dao 2023, arXiv:2307.08691): a tile of queries stays on the chip while keys pass by, the
softmax is kept up to date as a running maximum and sum, and the division is done once at the end. vLLM's
unified attention: the query heads that share a key head are rows of one tile, so keys are read once for all of them,
and a request of any number of tokens is cut into such tiles. Flash-Decoding (Dao, Haziza, Massa and Sizov 2023): where
there are fewer tiles than the device can run at once, each tile's keys are split among programs, and the parts are
merged by their log-sum-exp.

A tile is four int32: the row of its request in the page tables, the index of its first query among the step's tokens,
that query's position in its request, and how many queries it holds. Everything about lengths is read from there by the
device, so a captured graph serves any step that fits its grid; a tile of no queries does nothing.

Softmax is taken to base 2, in float32; logarithms in the scratch are to base 2 as well.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_PAGED_ATTENTION = (
    ("query", "*T"), ("key_cache", "*T"), ("value_cache", "*T"), ("out", "*T"), ("partial", "*fp32"),
    ("partial_lse", "*fp32"), ("tiles", "*i32"), ("page_tables", "*P"), ("table_stride", "i64"),
    ("page_stride", "i64"), ("slot_stride", "i64"), ("head_stride", "i64"), ("scale", "fp32"), ("soft_cap", "fp32"),
    ("window", "i32"), ("least_blocks", "i32"), ("group", "i32"),
)
_MERGE_SPLITS = (("partial", "*fp32"), ("partial_lse", "*fp32"), ("out", "*T"), ("tiles", "*i32"), ("splits", "i32"))

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _scores(query, keys, scale, soft_cap, CAPPED: tl.constexpr):
    """[rows, keys] scores in units of log 2."""
    products = tl.dot(query, tl.trans(keys), input_precision="ieee")
    if CAPPED:
        # tanh(x) is 2 sigmoid(2x) - 1: Triton has no tanh of its own.
        return soft_cap * (2.0 * tl.sigmoid(products * (2.0 * scale / soft_cap)) - 1.0) * _LOG2_E
    return products * (scale * _LOG2_E)


@triton.jit
def _vectors(
    positions, inside, table, page_stride, slot_stride, block,
    KEYS: tl.constexpr, PAGE_SIZE: tl.constexpr, MASKED: tl.constexpr,
):
    """[keys] int64 offsets, in heads, of the keys of a block in the cache."""
    if PAGE_SIZE >= KEYS:
        page = tl.load(table + block // (PAGE_SIZE // KEYS)).to(tl.int64)
        return page * page_stride + (positions % PAGE_SIZE) * slot_stride
    if MASKED:
        page = tl.load(table + positions // PAGE_SIZE, mask=inside, other=0).to(tl.int64)
    else:
        page = tl.load(table + positions // PAGE_SIZE).to(tl.int64)
    return page * page_stride + (positions % PAGE_SIZE) * slot_stride


@triton.jit
def _load_vectors(
    cache, vectors, inside,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr,
):
    """[keys, COLUMNS] keys or values that lie at `vectors`; zeros past the head, and where not `inside` if masked."""
    columns = tl.arange(0, COLUMNS)[None, :]
    offsets = (vectors * HEAD_DIM)[:, None] + columns
    if MASKED:
        return tl.load(cache + offsets, mask=inside[:, None] & (columns < HEAD_DIM), other=0.0)
    if COLUMNS == HEAD_DIM:
        return tl.load(cache + offsets)
    return tl.load(cache + offsets, mask=columns < HEAD_DIM, other=0.0)


@triton.jit
def _hide(scores, query_positions, positions, window, WINDOWED: tl.constexpr):
    """Scores, minus infinity where a query does not see the key."""
    distance = query_positions[:, None] - positions[None, :]
    visible = distance >= 0
    if WINDOWED:
        visible = visible & (distance < window)
    return tl.where(visible, scores, float("-inf"))


@triton.jit
def _gather(gathered, peak, total, scores, values, MASKED: tl.constexpr):
    """Add a block's values by the softmax of their scores."""
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    # A query that has seen nothing yet has no maximum to subtract.
    base = tl.where(higher == float("-inf"), 0.0, higher) if MASKED else higher
    weights = tl.exp2(scores - base[:, None])
    fading = tl.exp2(peak - base)
    total = total * fading + tl.sum(weights, axis=1)
    gathered = tl.dot(weights.to(values.dtype), values, gathered * fading[:, None], input_precision="ieee")
    return gathered, higher, total


@triton.jit
def _attend_blocks(
    gathered, peak, total, query, key_cache, value_cache, table, begin, end, gap_at, gap, low, high, query_positions,
    page_stride, slot_stride, scale, soft_cap, window,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, KEYS: tl.constexpr, PAGE_SIZE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, MASKED: tl.constexpr,
):
    """Let blocks of keys pass by: numbers `begin` to `end`, of which those from `gap_at` on lie `gap` further.

    `low` to `high` are the keys that some query of the tile may see; slots outside were perhaps never written and are
    not read. Where `MASKED` is 0, every query sees every key of every block.
    """
    for index in range(begin, end):
        block = index
        if MASKED:
            block += tl.where(index >= gap_at, gap, 0)
        positions = block * KEYS + tl.arange(0, KEYS)
        inside = (positions >= low) & (positions < high)
        vectors = _vectors(positions, inside, table, page_stride, slot_stride, block, KEYS, PAGE_SIZE, MASKED)
        keys = _load_vectors(key_cache, vectors, inside, HEAD_DIM, COLUMNS, MASKED)
        values = _load_vectors(value_cache, vectors, inside, HEAD_DIM, COLUMNS, MASKED)
        scores = _scores(query, keys, scale, soft_cap, CAPPED)
        if MASKED:
            scores = _hide(scores, query_positions, positions, window, WINDOWED)
        gathered, peak, total = _gather(gathered, peak, total, scores, values, MASKED)
    return gathered, peak, total


@triton.jit
def _shared_blocks(low, high, least_blocks, KEYS: tl.constexpr, SPLIT: tl.constexpr):
    """First and last block + 1 of this program's share of the keys `low` to `high`."""
    begin, end = low // KEYS, tl.cdiv(high, KEYS)
    if SPLIT:
        share = tl.maximum(tl.cdiv(end - begin, tl.num_programs(2)), least_blocks)
        begin = tl.minimum(begin + tl.program_id(2) * share, end)
        end = tl.minimum(begin + share, end)
    return begin, end


@triton.jit
def _full_blocks(
    begin, end, start, high, window, KEYS: tl.constexpr, WINDOWED: tl.constexpr, ORDERED: tl.constexpr
):
    """Those of the blocks that all queries of the tile see in full, to be done without masks; none if `ORDERED`."""
    full_begin = tl.minimum(begin, end)
    if WINDOWED:
        full_begin = tl.minimum(tl.maximum(tl.cdiv(tl.maximum(high - window, 0), KEYS), begin), end)
    full_end = full_begin
    if not ORDERED:
        full_end = tl.maximum(tl.minimum((start + 1) // KEYS, end), full_begin)
    return full_begin, full_end


@triton.jit
def _attend_share(
    query, key_cache, value_cache, table, start, high, query_positions, page_stride, slot_stride, scale, soft_cap,
    window, least_blocks,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PAGE_SIZE: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SPLIT: tl.constexpr, ORDERED: tl.constexpr,
):
    """Weighted sums of this program's values, the largest scores and the sums of the weights, a row each."""
    low = tl.maximum(start - window + 1, 0) if WINDOWED else 0
    begin, end = _shared_blocks(low, high, least_blocks, KEYS, SPLIT)
    full_begin, full_end = _full_blocks(begin, end, start, high, window, KEYS, WINDOWED, ORDERED)
    gathered = tl.zeros([ROWS, COLUMNS], tl.float32)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if not ORDERED:
        gathered, peak, total = _attend_blocks(
            gathered, peak, total, query, key_cache, value_cache, table, full_begin, full_end, 0, 0, low, high,
            query_positions, page_stride, slot_stride, scale, soft_cap, window,
            HEAD_DIM, COLUMNS, KEYS, PAGE_SIZE, WINDOWED, CAPPED, 0,
        )
    return _attend_blocks(
        gathered, peak, total, query, key_cache, value_cache, table, begin, end - (full_end - full_begin),
        full_begin, full_end - full_begin, low, high, query_positions, page_stride, slot_stride, scale, soft_cap,
        window, HEAD_DIM, COLUMNS, KEYS, PAGE_SIZE, WINDOWED, CAPPED, 1,
    )


@triton.jit(do_not_specialize=scalars(_PAGED_ATTENTION))
def paged_attention(
    query, key_cache, value_cache, out, partial, partial_lse, tiles, page_tables, table_stride,
    page_stride, slot_stride, head_stride, scale, soft_cap, window, least_blocks, group,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PAGE_SIZE: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, SPLIT: tl.constexpr,
    ORDERED: tl.constexpr,
):
    """One tile, one key head and one split of its keys a program: a grid of (tiles, kv_heads, splits).

    Row r of a tile is query r // `group` and the r % `group`-th of the query heads that share the key head; `ROWS`
    rows hold `ROWS` // `group` queries. Strides of the caches are in heads of `HEAD_DIM` elements, `COLUMNS` is
    the next power of two. A split has at least `least_blocks` blocks of `KEYS` keys, so those of a short request may be
    left with none. With `SPLIT` the parts go to `partial` ([tiles, heads, splits, HEAD_DIM]: one query a tile) and
    `partial_lse`, else the result goes to `out`. Blocks that all queries see in full are done first and without masks,
    unless `ORDERED` asks for one order and one way for all.
    """
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    heads = tl.num_programs(1) * group
    request = tl.load(tiles + tile * 4)
    first = tl.load(tiles + tile * 4 + 1)
    start = tl.load(tiles + tile * 4 + 2)
    count = tl.load(tiles + tile * 4 + 3)
    if count == 0:
        return

    rows = tl.arange(0, ROWS)
    queries = rows // group
    row_heads = kv_head * group + rows % group
    columns = tl.arange(0, COLUMNS)[None, :]
    known = (queries < count)[:, None] & (columns < HEAD_DIM)
    places = (((first + queries).to(tl.int64) * heads + row_heads) * HEAD_DIM)[:, None] + columns
    vectors = tl.load(query + places, mask=known, other=0.0)
    offset = kv_head * head_stride * HEAD_DIM
    gathered, peak, total = _attend_share(
        vectors, key_cache + offset, value_cache + offset, page_tables + request * table_stride, start, start + count,
        start + queries, page_stride, slot_stride, scale, soft_cap, window, least_blocks,
        HEAD_DIM, COLUMNS, ROWS, KEYS, PAGE_SIZE, WINDOWED, CAPPED, SPLIT, ORDERED,
    )

    seen = total > 0.0
    gathered = gathered / tl.where(seen, total, 1.0)[:, None]
    if SPLIT:
        place = ((tile + queries).to(tl.int64) * heads + row_heads) * tl.num_programs(2) + tl.program_id(2)
        lse = tl.where(seen, peak + tl.log2(total), float("-inf"))
        tl.store(partial_lse + place, lse, mask=(queries < count))
        tl.store(partial + (place * HEAD_DIM)[:, None] + columns, gathered, mask=known & seen[:, None])
    else:
        tl.store(out + places, gathered, mask=known)


@triton.jit(do_not_specialize=scalars(_MERGE_SPLITS))
def merge_splits(
    partial, partial_lse, out, tiles, splits,
    HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, CHUNK: tl.constexpr,
):
    """The splits of one query and head a program: a grid of (tiles x `QUERIES`, heads); `CHUNK` splits read at once.

    A split that saw no key has minus infinity for its log-sum-exp, and its part was not written.
    """
    tile, query = tl.program_id(0) // QUERIES, tl.program_id(0) % QUERIES
    heads = tl.num_programs(1)
    if query >= tl.load(tiles + tile * 4 + 3):
        return

    columns = tl.arange(0, COLUMNS)
    place = (tl.program_id(0).to(tl.int64) * heads + tl.program_id(1)) * splits
    merged = tl.zeros([COLUMNS], tl.float32)
    peak, total = float("-inf"), 0.0
    for chunk in range(0, splits, CHUNK):
        split = chunk + tl.arange(0, CHUNK)
        lse = tl.load(partial_lse + place + split, mask=split < splits, other=float("-inf"))
        known = (lse > float("-inf"))[:, None] & (columns < HEAD_DIM)[None, :]
        parts = tl.load(partial + ((place + split) * HEAD_DIM)[:, None] + columns[None, :], mask=known, other=0.0)
        # The first split of a tile always has a key, so there is a maximum from the first chunk on.
        higher = tl.maximum(peak, tl.max(lse, axis=0))
        weights, fading = tl.exp2(lse - higher), tl.exp2(peak - higher)
        merged = merged * fading + tl.sum(parts * weights[:, None], axis=0)
        total = total * fading + tl.sum(weights, axis=0)
        peak = higher
    token = (tl.load(tiles + tile * 4 + 1) + query).to(tl.int64)
    tl.store(out + (token * heads + tl.program_id(1)) * HEAD_DIM + columns, merged / total, mask=columns < HEAD_DIM)


KERNELS = (
    KernelSpec(
        "paged_attention", paged_attention, _PAGED_ATTENTION,
        ("HEAD_DIM", "COLUMNS", "ROWS", "KEYS", "PAGE_SIZE", "WINDOWED", "CAPPED", "SPLIT",
         "ORDERED"),
    ),
    KernelSpec("merge_splits", merge_splits, _MERGE_SPLITS, ("HEAD_DIM", "COLUMNS", "QUERIES", "CHUNK")),
)
