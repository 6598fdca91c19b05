"""Each kernel's reference against the formula written out, one element at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.activation import silu_multiply
from kernels.attention import AttentionBatch
from kernels.cache import write_cache
from kernels.linear import linear
from kernels.norm import add_rms_norm, rms_norm
from kernels.rotary import rotary_tables, rotate

NAN = float("nan")


@pytest.fixture(autouse=True)
def _poisoned_allocations() -> Iterator[None]:
    """Memory that torch allocates and does not fill is NaN, so an element that a kernel forgets shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def normal(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found: Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(found, torch.tensor(expected), atol=1e-5)


def test_silu_multiply_gates_the_second_half_with_the_first() -> None:
    x = normal(5, 14)
    expected = [[g / (1 + math.exp(-g)) * u for g, u in zip(row[:7], row[7:], strict=True)] for row in x.tolist()]
    assert close(silu_multiply(x), expected)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x, weight = normal(4, 6), normal(6, seed=1)
    expected = []
    for row in x.tolist():
        root = math.sqrt(sum(value * value for value in row) / 6 + 0.01)
        expected.append([value / root * scale for value, scale in zip(row, weight.tolist(), strict=True)])
    assert close(rms_norm(x, weight, 0.01), expected)


def test_rms_norm_of_half_precision_sums_in_float32() -> None:
    x = torch.full((1, 1024), 300.0, dtype=torch.float16)
    assert (rms_norm(x, torch.ones(1024, dtype=torch.float16), 1e-6) == 1).all()


def test_rms_norm_of_zeros_is_zero() -> None:
    assert not rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6).any()


def test_add_rms_norm_gives_the_normalised_sum_and_the_sum() -> None:
    x, residual, weight = normal(3, 8), normal(3, 8, seed=1), normal(8, seed=2)
    before = residual.clone()
    normalised, total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    assert torch.equal(normalised, rms_norm(x + residual, weight, 1e-5))
    assert torch.equal(residual, before)


def test_linear_multiplies_with_the_transposed_weight_and_adds_the_bias() -> None:
    x, weight, bias = normal(3, 4), normal(5, 4, seed=1), normal(5, seed=2)
    product = [[sum(x[t, i] * weight[o, i] for i in range(4)) for o in range(5)] for t in range(3)]
    assert close(linear(x, weight), [[float(value) for value in row] for row in product])
    assert torch.allclose(linear(x, weight, bias), linear(x, weight) + bias)


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_rotate_turns_each_pair_of_a_head_by_its_positions_angle(scale: float) -> None:
    frequencies = torch.tensor([1.0, 0.1, 0.01])
    cosine, sine = rotary_tables(frequencies, 50, scale, torch.float32)
    positions = torch.tensor([0, 7, 49])
    x = normal(3, 2, 6)
    turned = rotate(x, cosine[positions, None], sine[positions, None])
    for token, position in enumerate(positions.tolist()):
        for head in range(2):
            for pair, frequency in enumerate(frequencies.tolist()):
                angle, (first, second) = position * frequency, x[token, head, [pair, pair + 3]].tolist()
                expected = [
                    scale * (first * math.cos(angle) - second * math.sin(angle)),
                    scale * (second * math.cos(angle) + first * math.sin(angle)),
                ]
                assert turned[token, head, [pair, pair + 3]].tolist() == pytest.approx(expected, abs=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    cosine, sine = rotary_tables(torch.tensor([1.0, 0.2]), 100, 1.0, torch.float32)
    query, key = normal(1, 1, 4), normal(1, 1, 4, seed=1)

    def product(at: int, other: int) -> float:
        left, right = rotate(query, cosine[at], sine[at]), rotate(key, cosine[other], sine[other])
        return float((left * right).sum())

    assert product(9, 4) == pytest.approx(product(79, 74), abs=1e-4)


def test_write_cache_stores_each_token_in_its_slot_and_touches_no_other() -> None:
    key, value = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    key_cache, value_cache = torch.full((4, 2, 2, 4), 9.0), torch.full((4, 2, 2, 4), 8.0)
    slots = [5, 0, 6]
    write_cache(key, value, key_cache, value_cache, torch.tensor(slots))
    for slot in range(8):
        token = slots.index(slot) if slot in slots else None
        assert (key_cache[slot // 2, slot % 2] == (9.0 if token is None else key[token])).all()
        assert (value_cache[slot // 2, slot % 2] == (8.0 if token is None else value[token])).all()


@dataclass(frozen=True)
class Mix:
    """A batch: for each request the tokens already in the cache and those of this step."""

    starts: list[int]
    counts: list[int]
    page_size: int
    kv_heads: int
    shared: int
    window: int | None
    seed: int

    @property
    def contexts(self) -> list[int]:
        return [start + count for start, count in zip(self.starts, self.counts, strict=True)]


def page_tables(mix: Mix) -> Tensor:
    """Pages in no order, a request's unused entries pointing at a page that is all NaN (the last)."""
    needed = [-(-context // mix.page_size) for context in mix.contexts]
    order = torch.randperm(sum(needed), generator=torch.Generator().manual_seed(mix.seed)).tolist()
    tables = torch.full((len(needed), max(needed) + 1), sum(needed))
    for row, count in enumerate(needed):
        tables[row, :count] = torch.tensor([order.pop() for _ in range(count)])
    return tables


def attend_paged(mix: Mix, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The kernel's answer and that of a loop over tokens, heads and keys."""
    heads, head_dim, tokens = mix.kv_heads * mix.shared, 8, sum(mix.counts)
    tables = page_tables(mix)
    caches = torch.full((2, int(tables.max()) + 1, mix.page_size, mix.kv_heads, head_dim), NAN, dtype=dtype)
    query = normal(tokens, heads, head_dim, seed=mix.seed, dtype=dtype)
    keys, values = (
        [normal(size, mix.kv_heads, head_dim, seed=seed + row, dtype=dtype) for row, size in enumerate(mix.contexts)]
        for seed in (mix.seed + 100, mix.seed + 200)
    )
    for row, context in enumerate(mix.contexts):
        for position in range(context):
            page, offset = tables[row, position // mix.page_size], position % mix.page_size
            caches[0, page, offset], caches[1, page, offset] = keys[row][position], values[row][position]
    batch = AttentionBatch(mix.starts, mix.counts, tables, mix.page_size)
    found = batch.attend(query, caches[0], caches[1], head_dim**-0.5, mix.window)
    again = batch.attend(query, caches[0], caches[1], head_dim**-0.5, mix.window)
    assert torch.equal(found, again), "a second layer sees another mask"
    return found, naive_attention(mix, query, keys, values)


def naive_attention(mix: Mix, query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    rows: list[Tensor] = []
    for row, (start, count) in enumerate(zip(mix.starts, mix.counts, strict=True)):
        for position in range(start, start + count):
            first = 0 if mix.window is None else max(0, position - mix.window + 1)
            token = query[len(rows)].double()
            heads = []
            for head in range(mix.kv_heads * mix.shared):
                seen = keys[row][first : position + 1, head // mix.shared].double()
                weights = (seen @ token[head] * token.shape[-1] ** -0.5).softmax(0)
                heads.append(weights @ values[row][first : position + 1, head // mix.shared].double())
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    page_size = draw(st.sampled_from([1, 8, 16]))
    # Contexts one short of a page's edge, on it and one past it are where slots go wrong.
    edges = st.sampled_from([page_size - 1, page_size, page_size + 1, 2 * page_size, 3 * page_size - 1])
    length = st.one_of(st.integers(0, 40), edges)
    count = st.one_of(st.just(1), st.just(1), st.integers(1, 24), edges.filter(bool))
    requests = draw(st.lists(st.tuples(length, count), min_size=1, max_size=6))
    return Mix(
        [start for start, _ in requests], [count for _, count in requests], page_size, draw(st.sampled_from([1, 2])),
        draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([None, None, 1, 5, 16, 1000])), draw(st.integers(0, 99)),
    )


@settings(max_examples=60, deadline=None)
@given(mix=mixes())
def test_paged_attention_equals_a_loop_over_tokens(mix: Mix) -> None:
    found, expected = attend_paged(mix)
    assert found.isfinite().all(), "a slot that is not the request's was read, or an output row not written"
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("page_size", [1, 8, 16])
@pytest.mark.parametrize("context", [1, 15, 16, 17, 32])
def test_decode_contexts_about_a_pages_edge(page_size: int, context: int) -> None:
    found, expected = attend_paged(Mix([context - 1] * 3, [1] * 3, page_size, 2, 2, None, 1))
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_is_close(dtype: torch.dtype) -> None:
    found, expected = attend_paged(Mix([0, 20, 31, 16], [17, 1, 1, 9], 16, 2, 2, None, 3), dtype)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, atol=2e-2)


def test_windows_of_different_layers_do_not_mix() -> None:
    tables = torch.arange(4)[None]
    batch = AttentionBatch([0], [30], tables, 8)
    query, key, value = normal(30, 2, 8), normal(4, 8, 2, 8, seed=1), normal(4, 8, 2, 8, seed=2)
    wide, narrow = (batch.attend(query, key, value, 1.0, window) for window in (None, 3))
    assert torch.allclose(batch.attend(query, key, value, 1.0, None), wide)
    assert torch.allclose(wide[:3], narrow[:3], atol=1e-6)
    assert not torch.allclose(wide[3:], narrow[3:], atol=1e-2)
