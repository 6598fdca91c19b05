"""The noise that draws are made with, and the keys it follows from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.sampling import gumbel_noise, noise_key


def noise_for(keys: int, vocabulary: int) -> Tensor:
    words = [noise_key(11, 0, position) for position in range(keys)]
    return gumbel_noise(torch.tensor(words, dtype=torch.int32), vocabulary)


def test_noise_is_gumbel_distributed() -> None:
    noise = noise_for(64, 20_000).double()
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.577216, abs=0.005)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.01)
    ordered = (-(-noise.flatten()).exp()).exp().sort().values
    uniform = (torch.arange(len(ordered)) + 0.5) / len(ordered)
    one_in_a_thousand = 1.95 / math.sqrt(len(ordered))  # Kolmogorov and Smirnov's bound
    assert float((ordered - uniform).abs().max()) < one_in_a_thousand


def test_noise_of_neighbouring_keys_and_tokens_is_unrelated() -> None:
    noise = noise_for(64, 20_000).double()
    noise = (noise - noise.mean()) / noise.std()
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.roll((1, 1), (0, 1)), noise.roll((1, -1), (0, 1))):
        assert abs(float((noise * other).mean())) < 0.005


def test_noise_of_a_key_is_the_same_in_any_row_and_vocabulary() -> None:
    noise = noise_for(8, 100)
    assert torch.equal(noise_for(5, 80), noise[:5, :80])


def unmix(word: int) -> int:
    """The inverse of the 32-bit hash behind the noise."""
    word ^= word >> 16
    word = word * 0x43021123 & 0xFFFFFFFF
    word ^= word >> 15 ^ word >> 30
    word = word * 0x1D69E2A5 & 0xFFFFFFFF
    return word ^ word >> 16


@pytest.mark.parametrize("bits", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFF00, 0xFFFFFFFE, 0xFFFFFFFF])
def test_noise_is_finite_at_the_ends_of_its_range(bits: int) -> None:
    second = unmix(bits)
    key = torch.tensor([[0, second - (1 << 32) if second >> 31 else second]], dtype=torch.int32)
    noise = float(gumbel_noise(key, 1))
    expected = -math.log(-math.log1p(-((bits >> 1) + 0.5) / 2**31))
    assert noise == pytest.approx(expected, abs=0.3 if bits > 0xFFFFFF00 else 1e-3)


@settings(deadline=None)
@given(seed=st.integers(-(2**63), 2**64), choice=st.integers(0, 127), position=st.integers(0, 2**20))
def test_keys_are_pairs_of_32_bit_words(seed: int, choice: int, position: int) -> None:
    assert all(-(2**31) <= word < 2**31 for word in noise_key(seed, choice, position))


def test_keys_of_a_small_grid_are_all_different() -> None:
    keys = {noise_key(seed, choice, position) for seed in range(30) for choice in range(10) for position in range(50)}
    assert len(keys) == 30 * 10 * 50
