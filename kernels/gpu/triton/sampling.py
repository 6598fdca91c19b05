"""Drawing tokens without sorting the vocabulary.

A line of logits is dealt to programs in blocks, so that one request, too, uses the whole device; what the blocks found
is put together by whoever reads it next, in a fixed order, so a line's token does not depend on its company.

Lines that cut nothing off are drawn in one reading (Gumbel's maximum): `scan_logits`, then `choose_token`. For the
others `measure_levels` counts the tokens, and adds up their weight, above sixteen levels below the best logit. The
first level that is sure to have all that stays above it is low enough: `collect_likely` packs the few tokens there, and
`choose_likely` finds the exact threshold among them, cutting an interval of the bits of floats, whose order is that of
integers, in eight at each reading. A line where no level holds enough takes all its tokens through the same steps:
right, only slower.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.draws import GREEDY_TEMPERATURE
from kernels.gpu.specification import KernelSpec, scalars
from kernels.gpu.triton.noise import gumbel_noise, noise_key

_INFINITY = tl.constexpr(float("inf"))
_LAST_ID = tl.constexpr(0x7FFFFFFF)
_GREEDY_TEMPERATURE = tl.constexpr(GREEDY_TEMPERATURE)

_LOGITS = (("logits", "*T"), ("stride", "i64"), ("vocabulary", "i32"), ("rows", "*i64"))
_CUTS = (("temperatures", "*fp32"), ("top_ks", "*i32"), ("top_ps", "*fp32"), ("min_ps", "*fp32"))
_KEYS = (("seeds", "*i64"), ("choices", "*i32"), ("positions", "*i64"))
_BESTS = (("bests", "*fp32"), ("winners", "*i32"))
_LEVELS = (("counts", "*i32"), ("masses", "*fp32"))
_CANDIDATES = (("values", "*fp32"), ("ids", "*i32"))

_SCAN = (*_LOGITS, *_CUTS, *_KEYS, *_BESTS)
_MEASURE = (*_LOGITS, *_CUTS, *_BESTS, *_LEVELS)
_COLLECT = (*_LOGITS, *_CUTS, *_BESTS, *_LEVELS, *_CANDIDATES)
_CHOOSE = (
    ("logits", "*T"), ("stride", "i64"), *_BESTS, ("blocks", "i32"), ("tokens", "*i64"), ("sound", "*i8"),
)
_CHOOSE_LIKELY = (*_CHOOSE, ("vocabulary", "i32"), ("rows", "*i64"), *_CUTS, *_KEYS, *_LEVELS, *_CANDIDATES)


@triton.jit
def cuts(row, vocabulary, temperatures, top_ks, top_ps, min_ps):
    """Temperature, top_k (at most the vocabulary), top_p, min_p, and whether they cut anything off."""
    temperature = tl.load(temperatures + row)
    top_k = tl.load(top_ks + row)
    top_k = tl.where((top_k <= 0) | (top_k > vocabulary), vocabulary, top_k)
    top_p = tl.load(top_ps + row)
    min_p = tl.load(min_ps + row)
    cutting = (temperature >= _GREEDY_TEMPERATURE) & ((top_k < vocabulary) | (top_p < 1.0) | (min_p > 0.0))
    return temperature, top_k, top_p, min_p, cutting


@triton.jit
def scaled_logits(line, ids, vocabulary, temperature):
    """A line's logits over its temperature; NaN becomes infinity, so that it is chosen and noticed."""
    x = tl.load(line + ids, mask=ids < vocabulary, other=-_INFINITY).to(tl.float32)
    x = tl.where(x == x, x, _INFINITY)
    return tl.div_rn(x, tl.where(temperature < _GREEDY_TEMPERATURE, 1.0, temperature))


@triton.jit
def best_of(scores, ids):
    """The highest score and its id, the lowest one if several have it."""
    best = tl.max(scores, axis=0)
    return best, tl.min(tl.where(scores == best, ids, _LAST_ID), axis=0)


@triton.jit
def best_of_blocks(bests, winners, line, blocks, PARTS: tl.constexpr):
    """`best_of` what a line's blocks found."""
    lanes = tl.arange(0, PARTS)
    score = tl.full((PARTS,), -_INFINITY, tl.float32)
    winner = tl.full((PARTS,), _LAST_ID, tl.int32)
    for first in range(0, blocks, PARTS):
        inside = first + lanes < blocks
        other = tl.load(bests + line * blocks + first + lanes, mask=inside, other=-_INFINITY)
        other_winner = tl.load(winners + line * blocks + first + lanes, mask=inside, other=_LAST_ID)
        better = (other > score) | ((other == score) & (other_winner < winner))
        score = tl.where(better, other, score)
        winner = tl.where(better, other_winner, winner)
    return best_of(score, winner)


@triton.jit(do_not_specialize=scalars(_SCAN))
def scan_logits(
    logits, stride, vocabulary, rows, temperatures, top_ks, top_ps, min_ps, seeds, choices, positions, bests, winners,
    BLOCK: tl.constexpr,
):
    """Each block's best score: with noise, or without where the row is greedy or cuts a tail.

    Programs: (blocks, lines). `bests`, `winners`: [lines, blocks].
    """
    block, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.load(rows + line)
    temperature, _, _, _, cutting = cuts(row, vocabulary, temperatures, top_ks, top_ps, min_ps)
    ids = block * BLOCK + tl.arange(0, BLOCK)
    scores = scaled_logits(logits + line * stride, ids, vocabulary, temperature)
    if (temperature >= _GREEDY_TEMPERATURE) & (cutting == 0):
        high, low = noise_key(tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row))
        scores += gumbel_noise(ids, high, low)
    best, winner = best_of(scores, ids)
    tl.store(bests + line * tl.num_programs(0) + block, best)
    tl.store(winners + line * tl.num_programs(0) + block, winner)


@triton.jit
def levels_below(best, min_p, LEVELS: tl.constexpr):
    """Logits a quarter to 32 below the best, each sqrt(2) times as far as the one before; the last is min_p's."""
    steps = tl.arange(0, LEVELS)
    floor = tl.where(min_p > 0.0, best + tl.log(tl.maximum(min_p, 1e-37)), -_INFINITY)
    levels = best - tl.exp2(steps * 0.5 - 2.0)
    return tl.maximum(tl.where(steps == LEVELS - 1, -_INFINITY, levels), floor)


@triton.jit
def is_finite(x):
    """Neither infinite nor NaN."""
    return (x < _INFINITY) & (x > -_INFINITY)


@triton.jit(do_not_specialize=scalars(_MEASURE))
def measure_levels(
    logits, stride, vocabulary, rows, temperatures, top_ks, top_ps, min_ps, bests, winners, counts, masses,
    BLOCK: tl.constexpr, PART: tl.constexpr, LEVELS: tl.constexpr, PARTS: tl.constexpr,
):
    """How many of a block's tokens are at or above each level, and their weight (the best token of the row has 1).

    Programs: (blocks, lines). `counts`, `masses`: [lines, blocks, LEVELS], unwritten where the row cuts nothing.
    """
    block, line = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row = tl.load(rows + line)
    temperature, _, _, min_p, cutting = cuts(row, vocabulary, temperatures, top_ks, top_ps, min_ps)
    best = best_of_blocks(bests, winners, line, tl.num_programs(0), PARTS)[0]
    if cutting & is_finite(best):
        levels = levels_below(best, min_p, LEVELS)
        count = tl.zeros((LEVELS,), tl.int32)
        mass = tl.zeros((LEVELS,), tl.float32)
        for part in range(0, BLOCK, PART):
            ids = block * BLOCK + part + tl.arange(0, PART)
            x = scaled_logits(logits + line * stride, ids, vocabulary, temperature)
            above = (x[None, :] >= levels[:, None]) & (x[None, :] > -_INFINITY)
            count += tl.sum(above.to(tl.int32), axis=1)
            mass += tl.sum(tl.where(above, tl.exp(x - best)[None, :], 0.0), axis=1)
        place = (line * tl.num_programs(0) + block) * LEVELS + tl.arange(0, LEVELS)
        tl.store(counts + place, count)
        tl.store(masses + place, mass)


@triton.jit
def low_enough(counts, masses, line, blocks, vocabulary, top_k, top_p, LEVELS: tl.constexpr, PARTS: tl.constexpr):
    """The first level sure to have all that stays above it, how many tokens are there, and the weight of all."""
    steps = tl.arange(0, LEVELS)
    count = tl.zeros((LEVELS,), tl.int32)
    mass = tl.zeros((LEVELS,), tl.float32)
    for first in range(0, blocks, PARTS):
        part = first + tl.arange(0, PARTS)
        place = (line * blocks + part[:, None]) * LEVELS + steps[None, :]
        count += tl.sum(tl.load(counts + place, mask=part[:, None] < blocks, other=0), axis=0)
        mass += tl.sum(tl.load(masses + place, mask=part[:, None] < blocks, other=0.0), axis=0)
    whole = tl.sum(tl.where(steps == LEVELS - 1, mass, 0.0), axis=0)
    wanted_count = tl.where(top_k < vocabulary, top_k, _LAST_ID)
    wanted_mass = tl.where((top_k < vocabulary) | (top_p >= 1.0), _INFINITY, top_p * whole)
    level = tl.min(tl.where((count >= wanted_count) | (mass >= wanted_mass), steps, LEVELS - 1), axis=0)
    return level, tl.sum(tl.where(steps == level, count, 0), axis=0), whole


@triton.jit
def level_at(best, min_p, level, LEVELS: tl.constexpr):
    """One of `levels_below`; the best itself is the one before the first."""
    levels = levels_below(best, min_p, LEVELS)
    found = tl.max(tl.where(tl.arange(0, LEVELS) == level, levels, -_INFINITY), axis=0)
    return tl.where(level < 0, best, found)


@triton.jit
def count_before(counts, line, block, blocks, level, LEVELS: tl.constexpr, PARTS: tl.constexpr):
    """Tokens at or above a level in the blocks before this one."""
    lanes = tl.arange(0, PARTS)
    total = tl.zeros((PARTS,), tl.int32)
    for first in range(0, block, PARTS):
        place = (line * blocks + first + lanes) * LEVELS + level
        total += tl.load(counts + place, mask=first + lanes < block, other=0)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=scalars(_COLLECT))
def collect_likely(
    logits, stride, vocabulary, rows, temperatures, top_ks, top_ps, min_ps, bests, winners, counts, masses, values, ids,
    BLOCK: tl.constexpr, LEVELS: tl.constexpr, PARTS: tl.constexpr,
):
    """Pack scaled logit and id of the tokens that may stay, in the order of their ids.

    Programs: (blocks, lines). `values`, `ids`: [lines, vocabulary], of which as many as there are tokens are written.
    """
    block, blocks, line = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    row = tl.load(rows + line)
    temperature, top_k, top_p, min_p, cutting = cuts(row, vocabulary, temperatures, top_ks, top_ps, min_ps)
    best = best_of_blocks(bests, winners, line, blocks, PARTS)[0]
    if cutting & is_finite(best):
        level = low_enough(counts, masses, line, blocks, vocabulary, top_k, top_p, LEVELS, PARTS)[0]
        tokens = block * BLOCK + tl.arange(0, BLOCK)
        x = scaled_logits(logits + line * stride, tokens, vocabulary, temperature)
        staying = (x >= level_at(best, min_p, level, LEVELS)) & (x > -_INFINITY)
        place = count_before(counts, line, block, blocks, level, LEVELS, PARTS) + tl.cumsum(staying.to(tl.int32)) - 1
        tl.store(values + line * vocabulary + place, x, mask=staying)
        tl.store(ids + line * vocabulary + place, tokens, mask=staying)


@triton.jit
def ordered(x):
    """Float32 numbers as int32 in the same order, both zeros the same."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(key):
    """The inverse of `ordered`."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def weights_above(values, size, best, keys, MASS: tl.constexpr, CHUNK: tl.constexpr, WAYS: tl.constexpr):
    """How many candidates are above each of some keys, or their weight."""
    lanes = tl.arange(0, CHUNK)
    total = tl.zeros((WAYS,), tl.float32)
    for first in range(0, size, CHUNK):
        inside = first + lanes < size
        x = tl.load(values + first + lanes, mask=inside, other=-_INFINITY)
        weight = tl.where(inside, tl.exp(x - best) if MASS else 1.0, 0.0)
        total += tl.sum(tl.where(ordered(x)[None, :] > keys[:, None], weight[None, :], 0.0), axis=1)
    return total


@triton.jit
def weight_above(values, size, best, key, MASS: tl.constexpr, CHUNK: tl.constexpr):
    """How many candidates are above a key, or their weight."""
    return tl.max(weights_above(values, size, best, tl.full((1,), 0, tl.int32) + key, MASS, CHUNK, 1), axis=0)


@triton.jit
def lowest_key(values, size, best, low, high, limit, MASS: tl.constexpr, CHUNK: tl.constexpr, WAYS: tl.constexpr):
    """The smallest key from `low` to `high` with less than `limit` above it, if above `high` there is less."""
    steps = tl.arange(0, WAYS)
    while low < high:
        span = high.to(tl.int64) - low
        keys = (low + span * steps // WAYS).to(tl.int32)
        fits = weights_above(values, size, best, keys, MASS, CHUNK, WAYS) < limit
        high = tl.min(tl.where(fits, keys, high), axis=0)
        low = tl.max(tl.where(fits, low, keys + 1), axis=0)
    return low


@triton.jit
def threshold(
    values, size, best, low, high, whole, vocabulary, top_k, top_p, CHUNK: tl.constexpr, WAYS: tl.constexpr
):
    """The key of the last token to stay, from `low` to `high`: top_k's, then top_p's of what that leaves."""
    key = ordered(low)
    end = ordered(high)
    if top_k < vocabulary:
        key = lowest_key(values, size, best, key, end, top_k.to(tl.float32), False, CHUNK, WAYS)
        end = ordered(best)
    if top_p < 1.0:
        if top_k < vocabulary:
            # Tokens as likely as the k-th all stay, but only k tokens share the mass that top_p looks at.
            tied = tl.minimum(top_k, size) - weight_above(values, size, best, key, False, CHUNK)
            whole = weight_above(values, size, best, key, True, CHUNK)
            whole += tl.where(tied > 0, tied * tl.exp(unordered(key) - best), 0.0)
        key = lowest_key(values, size, best, key, end, top_p * whole, True, CHUNK, WAYS)
    return key


@triton.jit
def drawn(values, ids, size, key, high, low, CHUNK: tl.constexpr):
    """The candidate with the most of logit plus noise, among those at or above a key."""
    lanes = tl.arange(0, CHUNK)
    best = tl.full((CHUNK,), -_INFINITY, tl.float32)
    winner = tl.full((CHUNK,), _LAST_ID, tl.int32)
    for first in range(0, size, CHUNK):
        inside = first + lanes < size
        x = tl.load(values + first + lanes, mask=inside, other=-_INFINITY)
        token = tl.load(ids + first + lanes, mask=inside, other=_LAST_ID)
        score = tl.where(inside & (ordered(x) >= key), x + gumbel_noise(token, high, low), -_INFINITY)
        better = score > best
        best = tl.where(better, score, best)
        winner = tl.where(better, token, winner)
    return best_of(best, winner)[1]


@triton.jit
def write_token(logits, line, token, tokens, sound):
    """The line's token, and whether the model's own logit of it is a finite number."""
    tl.store(tokens + line, token.to(tl.int64))
    tl.store(sound + line, is_finite(tl.load(logits + token).to(tl.float32)).to(tl.int8))


@triton.jit(do_not_specialize=scalars(_CHOOSE))
def choose_token(logits, stride, bests, winners, blocks, tokens, sound, PARTS: tl.constexpr):
    """The tokens of lines that cut no tail; `logits` as the model gave them. Programs: (lines,)."""
    line = tl.program_id(0).to(tl.int64)
    token = best_of_blocks(bests, winners, line, blocks, PARTS)[1]
    write_token(logits + line * stride, line, token, tokens, sound)


@triton.jit(do_not_specialize=scalars(_CHOOSE_LIKELY))
def choose_likely(
    logits, stride, bests, winners, blocks, tokens, sound, vocabulary, rows, temperatures, top_ks, top_ps, min_ps,
    seeds, choices, positions, counts, masses, values, ids,
    CHUNK: tl.constexpr, WAYS: tl.constexpr, LEVELS: tl.constexpr, PARTS: tl.constexpr,
):
    """The tokens of all lines, after `collect_likely`; `logits` as the model gave them. Programs: (lines,)."""
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + line)
    _, top_k, top_p, min_p, cutting = cuts(row, vocabulary, temperatures, top_ks, top_ps, min_ps)
    best, token = best_of_blocks(bests, winners, line, blocks, PARTS)
    if cutting & is_finite(best):
        level, size, whole = low_enough(counts, masses, line, blocks, vocabulary, top_k, top_p, LEVELS, PARTS)
        values += line * vocabulary
        lowest, highest = level_at(best, min_p, level, LEVELS), level_at(best, min_p, level - 1, LEVELS)
        key = threshold(values, size, best, lowest, highest, whole, vocabulary, top_k, top_p, CHUNK, WAYS)
        high, low = noise_key(tl.load(seeds + row), tl.load(choices + row), tl.load(positions + row))
        token = drawn(values, ids + line * vocabulary, size, key, high, low, CHUNK)
    write_token(logits + line * stride, line, token, tokens, sound)


KERNELS = (
    KernelSpec("scan_logits", scan_logits, _SCAN, ("BLOCK",)),
    KernelSpec("measure_levels", measure_levels, _MEASURE, ("BLOCK", "PART", "LEVELS", "PARTS")),
    KernelSpec("collect_likely", collect_likely, _COLLECT, ("BLOCK", "LEVELS", "PARTS")),
    KernelSpec("choose_token", choose_token, _CHOOSE, ("PARTS",)),
    KernelSpec("choose_likely", choose_likely, _CHOOSE_LIKELY, ("CHUNK", "WAYS", "LEVELS", "PARTS")),
)
