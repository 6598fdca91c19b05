"""Norms, the gate and the rotary embedding in C++ against their references."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.cpu.operations import CpuOperations
from kernels.operations import ReferenceOperations
from kernels.rotary import rotary_tables
from tests.kernels.cpu import VARIANTS, using

REFERENCE = ReferenceOperations()
NAN = float("nan")
DTYPES = [torch.float32, torch.bfloat16]
SIZES = [(1, 8), (24, 576), (3, 100), (5, 13), (300, 576)]
"""[tokens, size]: whole and broken vectors, one thread and several."""


@pytest.fixture(params=VARIANTS)
def operations(request: pytest.FixtureRequest, uninitialised_is_nan: None) -> Iterator[CpuOperations]:
    with using(request.param) as library:
        yield CpuOperations(library)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal to within a unit in the last place of bfloat16, or a few of float32.

    Of bfloat16 what is expected comes in float32: the references round on the way, which adds a unit now and then.
    """
    tolerance = 1e-6 if found.dtype is torch.float32 else 2**-7
    torch.testing.assert_close(found, expected.to(found.dtype), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(operations: CpuOperations, size: tuple[int, int], dtype: torch.dtype) -> None:
    x, weight = torch.randn(size).to(dtype), torch.randn(size[1]).to(dtype)
    assert_close(operations.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x.float(), weight.float(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_add_rms_norm_gives_the_normalised_sum_and_the_sum(
    operations: CpuOperations, size: tuple[int, int], dtype: torch.dtype
) -> None:
    x, residual, weight = torch.randn(size).to(dtype), torch.randn(size).to(dtype), torch.randn(size[1]).to(dtype)
    total = x + residual
    found = operations.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    assert_close(found[0], REFERENCE.rms_norm(total.float(), weight.float(), 1e-5))
    assert torch.equal(found[1], total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_silu_multiply(operations: CpuOperations, size: tuple[int, int], dtype: torch.dtype) -> None:
    gate_up = (torch.randn(size[0], 2 * size[1]) * 4).to(dtype)
    assert_close(operations.silu_multiply(gate_up), REFERENCE.silu_multiply(gate_up.float()))


def test_silu_multiply_of_the_largest_and_smallest(operations: CpuOperations) -> None:
    gate = torch.tensor([0.0, -0.0, 88.0, -80.0, -1000.0, 1e38, -1e38, float("inf"), NAN, 1e-30])
    found = operations.silu_multiply(torch.cat((gate, torch.ones(10)))[None])
    expected = REFERENCE.silu_multiply(torch.cat((gate, torch.ones(10)))[None])
    torch.testing.assert_close(found, expected, atol=1e-30, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_a_number_stays_so(operations: CpuOperations, dtype: torch.dtype) -> None:
    x = torch.ones(3, 40, dtype=dtype)
    x[1, 39] = NAN
    weight = torch.ones(40, dtype=dtype)
    for found in (
        operations.rms_norm(x, weight, 1e-5), operations.add_rms_norm(x.clone(), x.clone(), weight, 1e-5)[0],
        operations.silu_multiply(x)[:, 19:],
    ):
        assert found.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("head_dim", [8, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("tokens", [1, 5, 200])
def test_rotate_and_cache(
    operations: CpuOperations, tokens: int, head_dim: int, normalised: bool, dtype: torch.dtype
) -> None:
    kv_heads, page_size = 2, 4
    projected = torch.randn(tokens, (6 + 2 * kv_heads) * head_dim + 3).to(dtype)
    heads = projected[:, : (6 + 2 * kv_heads) * head_dim].unflatten(1, (-1, head_dim))
    weights = torch.randn(2, head_dim).to(dtype)
    norms = (weights[0], weights[1]) if normalised else None
    cosine, sine = rotary_tables(torch.rand(head_dim // 2), 500, 1.0, dtype)
    positions, slots = torch.randint(500, (tokens,)), torch.randperm(4 * tokens)[:tokens]
    shape = (2, tokens, page_size, kv_heads, head_dim)
    found_cache, expected_cache = torch.full(shape, 9.0, dtype=dtype), torch.full(shape, 9.0)
    found = operations.rotate_and_cache(heads, norms, 1e-5, cosine, sine, positions, slots, *found_cache)
    exact = None if norms is None else (norms[0].float(), norms[1].float())
    expected = REFERENCE.rotate_and_cache(
        heads.float(), exact, 1e-5, cosine.float(), sine.float(), positions, slots, *expected_cache
    )
    assert_close(found / 4, expected / 4)
    assert_close(found_cache / 4, expected_cache / 4)


def test_rows_with_gaps_and_float16_are_left_to_the_reference(operations: CpuOperations) -> None:
    for x in (torch.randn(4, 32)[:, ::2], torch.randn(4, 16, dtype=torch.float16)):
        weight = torch.ones(16, dtype=x.dtype)
        assert torch.equal(operations.rms_norm(x, weight, 1e-5), REFERENCE.rms_norm(x, weight, 1e-5))
        assert torch.equal(operations.silu_multiply(x), REFERENCE.silu_multiply(x))
        found, total = operations.add_rms_norm(x, x, weight, 1e-5)
        assert torch.equal(total, x + x)
        assert torch.equal(found, REFERENCE.rms_norm(x + x, weight, 1e-5))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_a_projection_is_the_same_before_and_after_packing(operations: CpuOperations, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(5, 64).to(dtype), torch.randn(40, 64).to(dtype), torch.randn(40).to(dtype)
    linear, expected = operations.linear(weight, bias), REFERENCE.linear(weight.float(), bias.float())(x.float())
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(linear(x).float(), expected, atol=tolerance, rtol=tolerance)
    linear.pack()
    torch.testing.assert_close(linear(x).float(), expected, atol=tolerance, rtol=tolerance)


def test_a_matrix_is_never_kept_coarser_than_asked_for_or_stored(operations: CpuOperations) -> None:
    assert operations.matrix_dtype(torch.bfloat16, torch.float32) is torch.bfloat16
    assert operations.matrix_dtype(torch.float16, torch.float32) is torch.float32
    assert operations.matrix_dtype(torch.float32, torch.float32) is torch.float32
    assert operations.matrix_dtype(torch.float32, torch.bfloat16) is torch.bfloat16
