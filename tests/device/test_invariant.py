"""On a real device, a token's product has the same bits in any company and place."""

from __future__ import annotations

import pytest
import torch

from kernels.invariant import InvariantLinear
from kernels.operations import ReferenceLinear


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("outputs", "inputs"), [(6144, 4096), (4096, 14336), (1024, 3072), (151936, 1024), (64, 64)])
def test_a_token_has_the_same_bits_in_any_company_and_place(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight = torch.randn(outputs, inputs, dtype=dtype, device="cuda")
    x = torch.randn(150, inputs, dtype=dtype, device="cuda")
    linear = InvariantLinear(ReferenceLinear(weight, None))
    together = linear(x)
    assert all(torch.equal(linear(x[:count]), together[:count]) for count in (1, 2, 17, 63, 64, 65, 149))
    order = torch.randperm(150, device="cuda")
    assert torch.equal(linear(x[order]), together[order])
