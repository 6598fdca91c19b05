"""Projections by 8 and 4 bit weights on the GPU against `kernels.quantize`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.linear import MOST_TOKENS, QuantizedLinear, _constants
from kernels.gpu.specification import UnsupportedShape
from kernels.quantize import QuantizedWeight, quantize_int4, quantize_int8, quantized_linear

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

Quantize = Callable[[Tensor], QuantizedWeight]

FORMATS: dict[str, Quantize] = {
    "int8": quantize_int8, "int4-64": quantize_int4, "int4-128": partial(quantize_int4, group_size=128),
}
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3}
MANY_PROCESSORS = 132
"""So many that every small weight is split."""


@pytest.fixture(params=FORMATS)
def quantize(request: pytest.FixtureRequest) -> Quantize:
    return FORMATS[request.param]


def assert_is_reference(out: Tensor, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> None:
    tolerance = TOLERANCES[x.dtype] * weight.inputs**0.5
    assert out.dtype == x.dtype
    torch.testing.assert_close(out, quantized_linear(x, weight, bias), rtol=TOLERANCES[x.dtype], atol=tolerance)


@pytest.mark.parametrize("processors", [1, MANY_PROCESSORS], ids=["whole", "split"])
@pytest.mark.parametrize(("tokens", "outputs", "inputs"), [(1, 100, 256), (3, 64, 1152), (17, 130, 384), (64, 70, 128)])
def test_a_projection_is_the_reference(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, quantize: Quantize, tokens: int, outputs: int,
    inputs: int, processors: int,
) -> None:
    weight = quantize(torch.randn(outputs, inputs, device=device))
    bias = torch.randn(outputs, device=device, dtype=dtype)
    x = torch.randn(tokens, inputs, device=device, dtype=dtype)

    out = QuantizedLinear(launcher, weight, bias, processors)(x)

    assert_is_reference(out, x, weight, bias)


def test_int8_inputs_need_not_fill_the_last_turn(launcher: Launcher, device: torch.device, dtype: torch.dtype) -> None:
    weight = quantize_int8(torch.randn(40, 80, device=device))
    x = torch.randn(2, 80, device=device, dtype=dtype)

    out = QuantizedLinear(launcher, weight, None, MANY_PROCESSORS)(x)

    assert_is_reference(out, x, weight, None)


def test_inputs_that_are_a_view_are_taken_as_they_are(
    launcher: Launcher, device: torch.device, quantize: Quantize
) -> None:
    weight = quantize(torch.randn(64, 128, device=device))
    x = torch.randn(4, 256, device=device)[::2, 64:192]

    out = QuantizedLinear(launcher, weight, None, 1)(x)

    assert_is_reference(out, x, weight, None)


@pytest.mark.parametrize("tokens", [0, MOST_TOKENS + 1])
def test_no_token_and_many_tokens(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, quantize: Quantize, tokens: int
) -> None:
    weight = quantize(torch.randn(48, 128, device=device))
    bias = torch.randn(48, device=device, dtype=dtype)
    x = torch.randn(tokens, 128, device=device, dtype=dtype)

    out = QuantizedLinear(launcher, weight, bias, MANY_PROCESSORS)(x)

    assert_is_reference(out, x, weight, bias)


def test_a_token_has_the_same_result_in_any_company(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, quantize: Quantize
) -> None:
    projection = QuantizedLinear(launcher, quantize(torch.randn(70, 512, device=device)), None, MANY_PROCESSORS)
    x = torch.randn(16, 512, device=device, dtype=dtype)

    assert torch.equal(projection(x)[5:6], projection(x[5:6].clone()))


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_past_two_to_the_31_bytes_are_found(launcher: Launcher, device: torch.device, bits: int) -> None:
    """A split of a few inputs, of a row that starts past 2^31: all else is memory that nobody touches."""
    outputs, row, few = 130, 2**24 + 128, 128
    torch.use_deterministic_algorithms(False)
    values = torch.empty((outputs, row), dtype=torch.int8 if bits == 8 else torch.uint8, device=device)
    weight = quantize_int8(torch.randn(outputs, few)) if bits == 8 else quantize_int4(torch.randn(outputs, few), few)
    values[:, : weight.values.shape[1]] = weight.values
    x = torch.randn(1, few, device=device)
    sums = torch.full((1, 1, outputs), torch.nan, device=device)
    length = 16 if bits == 8 else few
    constants = _constants(bits, 1, few, split=True)

    launcher.launch(
        f"int{bits}_linear", constants, (3, 1, 1),
        (x, values, weight.scales.to(device), sums, sums, 1, outputs, row * 8 // bits // length, few // length),
    )

    torch.testing.assert_close(sums[0], quantized_linear(x, weight, None), rtol=1e-4, atol=1e-4)


def test_inputs_that_do_not_start_on_sixteen_bytes_are_refused(launcher: Launcher) -> None:
    with pytest.raises(UnsupportedShape, match="40"):
        QuantizedLinear(launcher, quantize_int8(torch.randn(8, 40)), None, 1)
