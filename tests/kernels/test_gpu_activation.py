"""Gated activations on the GPU against torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from kernels.activation import silu_multiply as reference_silu_multiply
from kernels.gpu.activation import gated, silu_multiply
from kernels.gpu.launcher import Launcher
from kernels.gpu.specification import UnsupportedShape

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": silu, "gelu": gelu, "gelu_tanh": partial(gelu, approximate="tanh"),
}
TOLERANCES = {torch.float32: 2e-6, torch.float16: 4e-3}


@pytest.mark.parametrize("size", [16, 384, 1536])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_first_half_activated_times_the_second(
    launcher: Launcher, device: torch.device, activation: str, dtype: torch.dtype, size: int
) -> None:
    gate_up = 2 * torch.randn(3, 2 * size, device=device, dtype=dtype)

    out = gated(launcher, gate_up, activation)

    gate, up = gate_up.chunk(2, dim=-1)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out, ACTIVATIONS[activation](gate) * up, atol=tolerance, rtol=tolerance)


def test_silu_multiply_is_the_reference(launcher: Launcher, device: torch.device) -> None:
    gate_up = torch.randn(2, 3, 64, device=device)

    torch.testing.assert_close(silu_multiply(launcher, gate_up), reference_silu_multiply(gate_up))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_from_zero_nothing_overflows(launcher: Launcher, device: torch.device, activation: str) -> None:
    gate_up = torch.tensor([[-1e4] * 8 + [1e4] * 8 + [1.0] * 16], device=device)

    out = gated(launcher, gate_up, activation)

    torch.testing.assert_close(out, torch.tensor([[0.0] * 8 + [1e4] * 8], device=device))


def test_halves_that_do_not_start_on_sixteen_bytes_are_refused(launcher: Launcher, device: torch.device) -> None:
    with pytest.raises(UnsupportedShape, match="24"):
        silu_multiply(launcher, torch.ones(1, 48, device=device))
