"""A quantised weight is as near as its steps allow, and lies in memory as its format says."""

from __future__ import annotations

import pytest
import torch

from kernels.quantize import QuantizedWeight, dequantize, quantize_int4, quantize_int8, quantized_linear


def test_int8_is_off_by_at_most_half_a_step_of_its_output() -> None:
    weight = torch.randn(37, 100) * torch.rand(37, 1) * 10

    quantized = quantize_int8(weight)

    error = (dequantize(quantized) - weight).abs()
    assert bool((error <= weight.abs().amax(-1, keepdim=True) / 127 * 0.5001).all())


@pytest.mark.parametrize("group_size", [64, 128])
def test_int4_is_off_by_at_most_half_a_step_of_its_group(group_size: int) -> None:
    weight = torch.randn(37, 384) * torch.rand(37, 384 // group_size).repeat_interleave(group_size, 1)

    quantized = quantize_int4(weight, group_size)

    largest = weight.abs().view(37, -1, group_size).amax(-1).repeat_interleave(group_size, 1)
    assert bool(((dequantize(quantized) - weight).abs() <= largest / 7 * 0.5001).all())


def test_steps_are_rounded_to_the_nearest() -> None:
    weight = torch.tensor([[127.0, 1.4, 1.6, -1.4, -1.6, 0.0]])

    assert quantize_int8(weight).values.tolist() == [[127, 1, 2, -1, -2, 0]]


def test_zeros_stay_zeros() -> None:
    assert not dequantize(quantize_int8(torch.zeros(3, 64))).any()
    assert not dequantize(quantize_int4(torch.zeros(3, 64))).any()


@pytest.mark.parametrize("group_size", [64, 128])
def test_a_byte_holds_inputs_half_a_group_apart(group_size: int) -> None:
    half = group_size // 2
    steps = torch.randint(-7, 8, (5, 3 * group_size))
    steps[:, ::group_size] = 7  # So that each group's scale is 1.

    packed = quantize_int4(steps.float(), group_size).values

    byte, group = 9, 2
    first = group * group_size + byte
    expected = (steps[:, first] + 8) + 16 * (steps[:, first + half] + 8)
    assert packed[:, group * half + byte].tolist() == expected.tolist()


def test_the_format_says_its_shape_and_size() -> None:
    eight, four = quantize_int8(torch.randn(10, 256)), quantize_int4(torch.randn(10, 256), 128)

    assert [(q.bits, q.outputs, q.inputs) for q in (eight, four)] == [(8, 10, 256), (4, 10, 256)]
    assert (four.group_size, four.scales.shape) == (128, (2, 10))
    assert (eight.bytes, four.bytes) == (10 * 256 + 10 * 4, 10 * 128 + 20 * 4)


@pytest.mark.parametrize(("inputs", "group_size"), [(96, 64), (64, 128), (96, 96), (64, 0)])
def test_groups_are_whole_and_of_a_known_size(inputs: int, group_size: int) -> None:
    with pytest.raises(ValueError, match=f"{inputs} inputs in groups of {group_size}"):
        quantize_int4(torch.zeros(2, inputs), group_size)


@pytest.mark.parametrize("bias", [None, torch.randn(20)], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_projection_is_the_product_with_what_the_values_stand_for(
    bias: torch.Tensor | None, dtype: torch.dtype
) -> None:
    weight = QuantizedWeight(torch.randint(-127, 128, (20, 48), dtype=torch.int8), torch.rand(20))
    x = torch.randn(3, 48).to(dtype)

    expected = x.double() @ (weight.values.double() * weight.scales[:, None]).T + (0 if bias is None else bias)

    out = quantized_linear(x, weight, bias)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-3)
