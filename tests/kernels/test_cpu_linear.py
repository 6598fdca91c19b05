"""Projections in C++: every storage, dtype and instruction set against a float64 product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.cpu.library import Library, Unavailable, UnsupportedVariant, load
from kernels.cpu.linear import OneDnnLinear, PackedLinear, UnsupportedOperand, fastest_linear, multiplies_bfloat16

FLOATS = [torch.float32, torch.bfloat16]
SHAPES = [(1, 1, 1), (2, 33, 5), (5, 17, 33), (7, 577, 64), (29, 31, 257), (13, 64, 577), (211, 65, 17)]
VARIANTS = ["portable", "avx2", "avx512", "avx512 in avx2"]


@pytest.fixture(params=VARIANTS)
def library(request: pytest.FixtureRequest, uninitialised_is_nan: None) -> Iterator[Library]:
    found = load()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    before = found.variant
    try:
        found.use(request.param)
    except UnsupportedVariant:
        pytest.skip(f"this processor cannot run {request.param}")
    yield found
    found.use(before)


def operands(
    rows: int, outputs: int, inputs: int, weight: torch.dtype, x: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(rows, inputs).to(x), torch.randn(outputs, inputs).to(weight), torch.randn(outputs)


def packed(library: Library, weight: Tensor, bias: Tensor | None, storage: torch.dtype | None = None) -> PackedLinear:
    projection = PackedLinear(library, weight, bias)
    projection.pack(storage)
    return projection


def assert_close(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Within what one chain of float32 sums and one rounding to y's dtype can be off."""
    exact = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    allowed = size * (len(weight[0]) + 2) * 2**-24 + exact.abs() * torch.finfo(y.dtype).eps
    assert (y.double() - exact).abs().le(allowed).all()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("weight_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_shape_matches_an_exact_product(
    library: Library, dtype: torch.dtype, weight_dtype: torch.dtype, biased: bool
) -> None:
    for shape in SHAPES:
        x, weight, some = operands(*shape, weight_dtype, dtype)
        bias = some if biased else None
        y = packed(library, weight, bias)(x)
        assert y.dtype is dtype
        assert_close(y, x, weight, bias)


@pytest.mark.parametrize("weight_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_packing_changes_no_bit(library: Library, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    for shape in SHAPES:
        x, weight, bias = operands(*shape, weight_dtype, dtype)
        projection = PackedLinear(library, weight, bias)
        before = projection(x)
        projection.pack()
        assert torch.equal(projection(x), before)


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8])
def test_a_row_depends_neither_on_the_other_rows_nor_on_the_threads(library: Library, storage: torch.dtype) -> None:
    x, weight, bias = operands(211, 97, 577, torch.bfloat16, torch.float32)
    projection = packed(library, weight, bias, storage)
    together = projection(x)
    for rows in (1, 2, 3, 5, 7, 24, 100):
        assert torch.equal(projection(x[:rows]), together[:rows])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(projection(x), together)
    finally:
        torch.set_num_threads(threads)


def test_float32_weights_that_are_bfloat16_values_lose_nothing_as_bfloat16(library: Library) -> None:
    x, weight, bias = operands(9, 65, 300, torch.bfloat16, torch.float32)
    whole, half = (packed(library, weight.float(), bias, storage) for storage in FLOATS)
    assert torch.equal(whole(x), half(x))
    assert half.packed_bytes * 2 == whole.packed_bytes == 96 * 300 * 4


def test_int8_is_within_half_a_step_of_each_weight(library: Library) -> None:
    for rows, outputs, inputs in SHAPES:
        x, weight, bias = operands(rows, outputs, inputs, torch.float32, torch.float32)
        step = weight.double().abs().amax(1) / 127
        exact = x.double() @ weight.double().T + bias.double()
        allowed = 0.5001 * step * x.double().abs().sum(1, keepdim=True) + 1e-5 * inputs
        assert (packed(library, weight, bias, torch.int8)(x).double() - exact).abs().le(allowed).all()


def test_int8_reads_whole_weights_up_to_127_back_exactly(library: Library) -> None:
    weight = torch.randint(-127, 128, (33, 40)).float()
    weight[:, 0] = 127
    assert torch.equal(packed(library, weight, None, torch.int8)(torch.eye(40)), weight.T)


def test_int8_outputs_whose_weights_are_all_zero_are_zero(library: Library) -> None:
    assert torch.equal(packed(library, torch.zeros(3, 8), None, torch.int8)(torch.randn(2, 8)), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_input_stays_in_its_row(library: Library, value: float, dtype: torch.dtype) -> None:
    x, weight, bias = operands(15, 70, 50, torch.bfloat16, dtype)
    projection = packed(library, weight, bias)
    expected = projection(x)
    x[6, 49] = value
    y = projection(x)
    assert not y[6].isfinite().any()
    others = [row for row in range(15) if row != 6]
    assert torch.equal(y[others], expected[others])


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_bad_weight_stays_in_its_output(library: Library, value: float, storage: torch.dtype) -> None:
    x, weight, _ = operands(3, 70, 50, torch.bfloat16, torch.float32)
    weight[41, 7] = value
    finite = packed(library, weight, None, storage)(x).isfinite()
    assert not finite[:, 41].any()
    assert finite.sum() == 3 * 69


def test_rows_may_lie_apart_but_not_their_elements(library: Library) -> None:
    x, weight, _ = operands(7, 20, 30, torch.float32, torch.float32)
    wide = torch.full((7, 50), torch.nan)
    wide[:, 10:40] = x
    projection = packed(library, weight, None)
    assert torch.equal(projection(wide[:, 10:40]), projection(x))
    with pytest.raises(UnsupportedOperand):
        projection(torch.randn(30, 7).T)


def test_no_rows_give_no_rows(library: Library) -> None:
    for projection in (PackedLinear(library, torch.randn(5, 4)), packed(library, torch.randn(5, 4), None)):
        assert projection(torch.empty(0, 4)).shape == (0, 5)


def test_operands_that_the_kernels_do_not_take_are_refused(library: Library) -> None:
    projection = PackedLinear(library, torch.randn(5, 4))
    for x in (torch.randn(2, 3), torch.randn(4), torch.randn(2, 4).half()):
        with pytest.raises(UnsupportedOperand):
            projection(x)
    for weight in (torch.randn(4), torch.randn(4, 5).T, torch.randn(5, 4).half()):
        with pytest.raises(UnsupportedOperand):
            PackedLinear(library, weight)
    with pytest.raises(UnsupportedOperand):
        projection.pack(torch.float16)


def test_packing_lets_go_of_the_given_weight(library: Library) -> None:
    weight = torch.randn(40, 8)
    expected = weight.clone()
    projection = PackedLinear(library, weight)
    assert projection.packed_bytes == 0
    projection.pack()
    projection.pack()
    weight.fill_(torch.nan)
    assert_close(projection(torch.eye(8)), torch.eye(8), expected, None)
    assert projection.packed_bytes == 64 * 8 * 4


def test_one_dnn_agrees_before_and_after_packing() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    x, weight, bias = operands(9, 65, 300, torch.float32, torch.float32)
    projection = OneDnnLinear(weight, bias)
    assert_close(projection(x), x, weight, bias)
    projection.pack()
    assert projection.packed_bytes >= weight.nbytes
    assert_close(projection(x), x, weight, bias)


@pytest.mark.parametrize(("flags", "expected"), [("avx2", False), ("avx512_bf16", True), ("amx_bf16", True)])
def test_native_bfloat16_is_read_from_the_processor_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    assert multiplies_bfloat16(cpuinfo) is expected
    assert not multiplies_bfloat16(tmp_path / "missing")


def test_one_dnn_is_chosen_only_where_everything_is_bfloat16(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernels.cpu.linear.multiplies_bfloat16", lambda: True)
    for weight in FLOATS:
        for activations in FLOATS:
            chosen = fastest_linear(library, torch.zeros(2, 2, dtype=weight), None, activations)
            assert isinstance(chosen, OneDnnLinear) is (weight is activations is torch.bfloat16)
