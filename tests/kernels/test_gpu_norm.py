"""The norms on the GPU against their references."""

from __future__ import annotations

import pytest
import torch

from kernels.gpu.launcher import Launcher
from kernels.gpu.norm import add_rms_norm, rms_norm
from kernels.gpu.specification import UnsupportedShape
from kernels.norm import add_rms_norm as reference_add_rms_norm
from kernels.norm import rms_norm as reference_rms_norm

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

SIZES = [64, 80, 576, 1040]
"""Powers of two and not."""

TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3}


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm_is_the_reference(launcher: Launcher, device: torch.device, dtype: torch.dtype, size: int) -> None:
    x = torch.randn(5, size, device=device, dtype=dtype)
    weight = torch.randn(size, device=device, dtype=dtype)

    out = rms_norm(launcher, x, weight, 1e-5)

    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out, reference_rms_norm(x, weight, 1e-5), atol=tolerance, rtol=tolerance)


def test_epsilon_decides_for_small_rows(launcher: Launcher, device: torch.device) -> None:
    x = torch.randn(2, 64, device=device) * 1e-4
    weight = torch.ones(64, device=device)

    out = rms_norm(launcher, x, weight, 1e-2)

    torch.testing.assert_close(out, reference_rms_norm(x, weight, 1e-2), atol=1e-8, rtol=1e-5)


def test_large_half_precision_rows_do_not_overflow(launcher: Launcher, device: torch.device) -> None:
    x = torch.full((1, 64), 60000.0, device=device, dtype=torch.float16)

    out = rms_norm(launcher, x, torch.ones(64, device=device, dtype=torch.float16), 1e-5)

    torch.testing.assert_close(out, torch.ones_like(out))


@pytest.mark.parametrize("size", SIZES)
def test_add_rms_norm_is_the_reference_in_place(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, size: int
) -> None:
    x, residual = torch.randn(2, 3, size, device=device, dtype=dtype)
    weight = torch.randn(size, device=device, dtype=dtype)
    expected, expected_total = reference_add_rms_norm(x, residual, weight, 1e-6)

    out, total = add_rms_norm(launcher, x, residual, weight, 1e-6)

    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(total, expected_total)
    assert total is residual


def test_a_step_without_tokens_is_nothing(launcher: Launcher, device: torch.device) -> None:
    x = torch.empty(0, 64, device=device)

    assert rms_norm(launcher, x, torch.ones(64, device=device), 1e-5).shape == (0, 64)


def test_rows_that_do_not_start_on_sixteen_bytes_are_refused(launcher: Launcher, device: torch.device) -> None:
    with pytest.raises(UnsupportedShape, match="60"):
        rms_norm(launcher, torch.ones(1, 60, device=device), torch.ones(60, device=device), 1e-5)


def test_a_view_with_gaps_cannot_be_normalised_in_place(launcher: Launcher, device: torch.device) -> None:
    x = torch.ones(2, 128, device=device)[:, :64]

    with pytest.raises(UnsupportedShape):
        add_rms_norm(launcher, x, torch.ones(2, 64, device=device), torch.ones(64, device=device), 1e-5)
