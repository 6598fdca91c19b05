"""Head norms, rotation and cache write on the GPU against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.rotary import rotate_and_cache
from kernels.gpu.specification import UnsupportedShape
from kernels.operations import Norms, ReferenceOperations
from kernels.rotary import rotary_tables
from tests.kernels.far_apart import far_apart

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

POSITIONS = 300


@dataclass(frozen=True)
class Case:
    """A step's inputs, drawn afresh."""

    device: torch.device
    tokens: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    page_size: int = 16
    pages: int = 3
    dtype: torch.dtype = torch.float32
    head_norm: bool = False

    @property
    def cache_size(self) -> tuple[int, ...]:
        return self.pages, self.page_size, self.kv_heads, self.head_dim

    def caches(self) -> tuple[Tensor, Tensor]:
        key, value = torch.full((2, *self.cache_size), float("nan"), dtype=self.dtype, device=self.device)
        return key, value

    def projection(self) -> Tensor:
        size = self.tokens, self.heads + 2 * self.kv_heads, self.head_dim
        return torch.randn(size, dtype=self.dtype, device=self.device)

    def norms(self) -> Norms | None:
        query, key = torch.randn(2, self.head_dim, dtype=self.dtype, device=self.device)
        return (query, key) if self.head_norm else None

    def tables(self) -> tuple[Tensor, Tensor]:
        frequencies = 10000.0 ** -torch.linspace(0, 1, self.head_dim // 2)
        cosine, sine = rotary_tables(frequencies, POSITIONS, 1.25, self.dtype)
        return cosine.to(self.device), sine.to(self.device)

    def slots(self) -> Tensor:
        return torch.randperm(self.pages * self.page_size, device=self.device)[: self.tokens]


def check(launcher: Launcher, case: Case, caches: tuple[Tensor, Tensor], slots: Tensor) -> None:
    """Queries, keys and values are the reference's, and every other slot is left as it was: not a number."""
    expected_caches = case.caches()
    positions = torch.randint(POSITIONS, (case.tokens,), device=case.device)
    inputs = case.projection(), case.norms(), 1e-6, *case.tables(), positions, slots

    query = rotate_and_cache(launcher, *inputs, *caches)

    expected = ReferenceOperations().rotate_and_cache(*inputs, *expected_caches)
    tolerance = 1e-5 if case.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(query, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(caches, expected_caches, atol=tolerance, rtol=tolerance, equal_nan=True)


@pytest.mark.parametrize("head_norm", [False, True], ids=["", "head-norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size(
    launcher: Launcher, device: torch.device, head_dim: int, dtype: torch.dtype, head_norm: bool
) -> None:
    case = Case(device, head_dim=head_dim, dtype=dtype, head_norm=head_norm)

    check(launcher, case, case.caches(), case.slots())


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (9, 3), (8, 1), (14, 2)])
def test_every_division_of_heads_among_programs(
    launcher: Launcher, device: torch.device, heads: int, kv_heads: int
) -> None:
    """The kernel takes eight heads at a time, which may be of three kinds or fewer than eight."""
    case = Case(device, heads=heads, kv_heads=kv_heads, head_norm=True)

    check(launcher, case, case.caches(), case.slots())


@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_every_page_size(launcher: Launcher, device: torch.device, page_size: int) -> None:
    case = Case(device, page_size=page_size)

    check(launcher, case, case.caches(), case.slots())


def test_caches_that_are_views(launcher: Launcher, device: torch.device) -> None:
    """Keys and values interleaved by page, and heads before slots."""
    case = Case(device)
    storage = torch.full((3, 2, 2, 16, 64), float("nan"), device=device)
    key, value = storage.transpose(2, 3).unbind(1)

    check(launcher, case, (key, value), case.slots())


def test_slots_past_32_bits(launcher: Launcher, device: torch.device) -> None:
    case = Case(device, tokens=2, dtype=torch.float16)
    caches = far_apart(case.cache_size, case.dtype, device), far_apart(case.cache_size, case.dtype, device)

    check(launcher, case, caches, torch.tensor([47, 3], device=device))


def test_a_step_without_tokens_is_nothing(launcher: Launcher, device: torch.device) -> None:
    case = Case(device, tokens=0)

    check(launcher, case, case.caches(), case.slots())


def test_heads_that_are_not_in_one_piece_are_refused(launcher: Launcher, device: torch.device) -> None:
    case = Case(device)
    caches = torch.zeros(2, 3, 16, 64, 2, device=device).transpose(3, 4).unbind()

    with pytest.raises(UnsupportedShape, match="strides"):
        check(launcher, case, (caches[0], caches[1]), case.slots())
