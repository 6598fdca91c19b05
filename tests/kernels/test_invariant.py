"""A projection that computes every token as if it were always in the same company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.invariant import ROWS, InvariantLinear


class Watched:
    """A projection whose result depends on how many tokens it sees, as a library's last bits may."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.rows: list[int] = []
        self.packed = False

    def __call__(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return x @ self._weight.T + len(x)

    def pack(self) -> None:
        self.packed = True


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 128, 200])
def test_every_product_has_the_same_number_of_rows(tokens: int) -> None:
    watched, x = Watched(torch.randn(7, 16)), torch.randn(tokens, 16)
    result = InvariantLinear(watched)(x)
    assert watched.rows == [ROWS] * -(-tokens // ROWS)
    torch.testing.assert_close(result, x @ watched._weight.T + ROWS)


def test_a_token_has_the_same_bits_in_any_company() -> None:
    watched, x = Watched(torch.randn(7, 16)), torch.randn(150, 16)
    linear = InvariantLinear(watched)
    together = linear(x)
    assert all(torch.equal(linear(x[:count]), together[:count]) for count in (1, 2, 17, 64, 65, 149))


def test_packing_is_passed_on() -> None:
    watched = Watched(torch.randn(7, 16))
    InvariantLinear(watched).pack()
    assert watched.packed
