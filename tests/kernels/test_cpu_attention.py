"""Attention in C++ against its reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.cpu.library import Library
from kernels.cpu.operations import CpuOperations
from kernels.operations import Attention
from tests.kernels.cpu import VARIANTS, using
from tests.kernels.paged import Paged

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
MIXED = [(0, 7), (17, 1), (300, 1), (5, 130), (1100, 1), (64, 33), (0, 1), (15, 1), (16, 16)]
"""Chunks from the start and later, single tokens; lengths that end within a page, with it, and just past it."""


@pytest.fixture(params=VARIANTS)
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    with using(request.param) as library:
        yield library


@pytest.fixture(autouse=True)
def _uninitialised_is_nan(uninitialised_is_nan: None) -> None:
    pass


def attention(library: Library, paged: Paged) -> Attention:
    return CpuOperations(library).attention(paged.starts, paged.counts, paged.page_tables, paged.page_size)


def assert_right(library: Library, paged: Paged, window: int | None = None, soft_cap: float | None = None) -> None:
    found = paged.attend(attention(library, paged), window, soft_cap)
    tolerance = 2e-5 if found.dtype is torch.float32 else 1e-2
    torch.testing.assert_close(found, paged.expected(window, soft_cap), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [64, 72, 80, 96, 128, 256])
def test_every_head_size(library: Library, head_dim: int, dtype: torch.dtype) -> None:
    assert_right(library, Paged.random(CPU, MIXED, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shared", [1, 3, 4, 5, 8, 13])
def test_any_number_of_heads_shares_a_key_head(library: Library, shared: int, dtype: torch.dtype) -> None:
    assert_right(library, Paged.random(CPU, MIXED, heads=2 * shared, kv_heads=2, dtype=dtype))


@pytest.mark.parametrize("page_size", [1, 4, 16, 64])
def test_every_page_size(library: Library, page_size: int) -> None:
    assert_right(library, Paged.random(CPU, MIXED, page_size=page_size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 7, 100, 4096, 1 << 40])
def test_a_window_hides_what_is_further_back(library: Library, window: int, dtype: torch.dtype) -> None:
    assert_right(library, Paged.random(CPU, MIXED, dtype=dtype), window=window)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("soft_cap", [0.5, 30.0])
def test_scores_are_capped_before_they_are_hidden(library: Library, soft_cap: float, window: int | None) -> None:
    assert_right(library, Paged.random(CPU, MIXED), window, soft_cap)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 511, 512, 513, 1537])
def test_a_single_token_sees_a_context_of_any_length(library: Library, tokens: int) -> None:
    assert_right(library, Paged.random(CPU, [(tokens - 1, 1)], heads=6, kv_heads=2))


@pytest.mark.parametrize("count", [2, 31, 32, 33, 95, 97, 200])
@pytest.mark.parametrize("start", [0, 1, 96, 250])
def test_a_chunk_of_any_length_starts_anywhere(library: Library, start: int, count: int) -> None:
    assert_right(library, Paged.random(CPU, [(start, count)], heads=6, kv_heads=2))


def test_one_attention_serves_layers_of_every_kind(library: Library) -> None:
    paged = Paged.random(CPU, MIXED)
    batch = attention(library, paged)
    for window in (5, None, 100):
        torch.testing.assert_close(paged.attend(batch, window), paged.expected(window), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lengths", [[(40, 1)], [(0, 40)], [(1500, 1)]])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_so(
    library: Library, lengths: list[tuple[int, int]], poison: float, dtype: torch.dtype
) -> None:
    paged = Paged.random(CPU, lengths, heads=2, kv_heads=2, dtype=dtype)
    paged.query[-1, 1, 5] = poison
    found = paged.attend(attention(library, paged))
    assert found[-1, 1].isnan().all()
    assert found[-1, 0].isfinite().all()


def test_a_request_has_the_same_result_in_any_batch(library: Library) -> None:
    paged = Paged.random(CPU, MIXED)
    together = paged.attend(attention(library, paged)).split(paged.counts)
    for request in range(len(MIXED)):
        alone = paged.part([request])
        assert torch.equal(alone.attend(attention(library, alone)), together[request])


def test_the_number_of_threads_changes_nothing(library: Library) -> None:
    paged = Paged.random(CPU, MIXED)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(paged.attend(attention(library, paged)))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_pages_may_lie_apart(library: Library) -> None:
    near = Paged.random(CPU, MIXED)
    both = torch.stack((near.key_cache, near.value_cache), dim=1)
    apart = Paged(near.lengths, near.query, both[:, 0], both[:, 1], near.page_tables)
    assert not apart.key_cache.is_contiguous()
    assert torch.equal(apart.attend(attention(library, apart)), near.attend(attention(library, near)))


def test_float16_is_left_to_the_reference(library: Library) -> None:
    paged = Paged.random(CPU, MIXED, dtype=torch.float16)
    found = paged.attend(attention(library, paged))
    torch.testing.assert_close(found, paged.expected(), atol=1e-2, rtol=1e-2)
