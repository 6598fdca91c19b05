"""Shapes that no GPU kernel is written for are computed by the reference, that operation alone, and it is told once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.operations import GpuOperations
from kernels.gpu.specification import Constant, ModelShape
from kernels.gpu.variants import variants_of
from kernels.operations import Norms, Operations, ReferenceOperations
from kernels.quantize import quantize_int8, quantized_linear
from kernels.rotary import rotary_tables
from tests.kernels.paged import Paged

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

FITS = ModelShape(
    "fp32", heads=4, kv_heads=2, head_dim=64, hidden_size=96, intermediate_size=48, page_size=16, head_norm=True
)
KERNELS = {
    "attention": {"paged_attention"}, "rotation": {"rotate_and_cache"},
    "norms": {"rms_norm", "add_rms_norm"}, "gates": {"gated"},
}
MISFITS = {
    "small heads": (replace(FITS, head_dim=20), {"attention", "rotation"}, "heads of 20, no multiple of 16"),
    "long heads": (replace(FITS, head_dim=272), {"attention"}, "heads of 272, more than 256"),
    "hidden states": (replace(FITS, hidden_size=100), {"norms"}, "hidden states of 100"),
    "gates": (replace(FITS, intermediate_size=40), {"gates"}, "gates of 40"),
    "all": (replace(FITS, head_dim=6, hidden_size=24, intermediate_size=7), set(KERNELS), "heads of 6"),
}


class Noting:
    """A launcher that notes which kernels were asked for."""

    compilations = 0

    def __init__(self, inner: Launcher) -> None:
        self._inner = inner
        self.kernels: set[str] = set()

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        self.kernels.add(kernel)
        self._inner.launch(kernel, constants, grid, arguments)


def results(operations: Operations, shape: ModelShape, device: torch.device) -> list[Tensor]:
    """What the operations of a layer give, the same numbers each time."""
    torch.manual_seed(0)
    step = Paged.random(device, [(40, 1), (0, 9)], shape.heads, shape.kv_heads, shape.head_dim)
    x, residual = torch.randn(2, 10, shape.hidden_size, device=device).unbind(0)
    heads = torch.randn(10, shape.heads + 2 * shape.kv_heads, shape.head_dim, device=device)
    norms: Norms = (torch.randn(shape.head_dim, device=device), torch.randn(shape.head_dim, device=device))
    cosine, sine = rotary_tables(torch.rand(shape.head_dim // 2), 50, 1.0, torch.float32)
    places, weight = torch.arange(10, device=device), torch.randn(shape.hidden_size, device=device)
    keys, values = torch.zeros(2, 1, 16, shape.kv_heads, shape.head_dim, device=device).unbind(0)
    tiles = torch.tensor([[0, 0, 40, 1], [1, 1, 8, 1]], dtype=torch.int32, device=device)
    decodes = replace(step, query=step.query[[0, 9]])
    return [
        operations.rms_norm(x, weight, 1e-5), *operations.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5),
        operations.silu_multiply(torch.randn(3, 2 * shape.intermediate_size, device=device)),
        operations.rotate_and_cache(
            heads, norms, 1e-5, cosine.to(device), sine.to(device), places, places, keys, values
        ), keys, values,
        step.attend(operations.attention(step.starts, step.counts, step.page_tables, step.page_size)),
        decodes.attend(operations.decode_attention(tiles, step.page_tables, step.page_size, 50)),
    ]


@pytest.mark.parametrize(("shape", "plain", "reason"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_the_references_and_all_else_the_kernels(
    launcher: Launcher, device: torch.device, shape: ModelShape, plain: set[str], reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    noting = Noting(launcher)
    operations = GpuOperations(noting, 132, shape=shape)
    for _ in range(2):
        found = results(operations, shape, device)
    torch.testing.assert_close(found, results(ReferenceOperations(), shape, device), rtol=1e-4, atol=1e-5)
    launched = {operation for operation, kernels in KERNELS.items() if noting.kernels & kernels}
    assert launched == KERNELS.keys() - plain
    assert reason in operations.name
    assert all((f"{operation} (" in operations.name) == (operation in plain) for operation in KERNELS)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert operations.recordable == ("attention" not in plain)


def test_a_shape_that_fits_has_nothing_to_tell(launcher: Launcher, caplog: pytest.LogCaptureFixture) -> None:
    operations = GpuOperations(launcher, 132, quantize=True, shape=FITS)
    assert (operations.name, operations.recordable, caplog.records) == ("GPU (Triton)", True, [])


def test_only_products_that_fit_are_quantised(launcher: Launcher, device: torch.device) -> None:
    operations = GpuOperations(launcher, 132, quantize=True, shape=replace(FITS, intermediate_size=40))
    assert "quantised products (inputs of 40" in operations.name
    for inputs in (40, 96):
        weight, x = torch.randn(24, inputs, device=device), torch.randn(3, inputs, device=device)
        plain, rounded = x @ weight.T, quantized_linear(x, quantize_int8(weight), None)
        torch.testing.assert_close(operations.linear(weight, None)(x), plain if inputs == 40 else rounded)


def test_kernels_that_do_not_fit_are_not_compiled() -> None:
    kernels = {variant.kernel for variant in variants_of([replace(FITS, head_dim=20)])}
    assert not kernels & (KERNELS["attention"] | KERNELS["rotation"])
    assert kernels >= KERNELS["norms"]
