"""Gated activations on the GPU; what the first computes is defined in `kernels.activation`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from kernels.gpu import layout
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import ceil_div, groups
from kernels.gpu.specification import Constant, ModelShape, Variant

_BLOCK = 1024


def gated(launcher: Launcher, gate_up: Tensor, activation: str) -> Tensor:
    """Activation of the first half of the last dimension times the second: [..., 2 x size] to [..., size].

    Args:
        gate_up: its halves are multiples of 16 long.
        activation: `silu`, `gelu`, or `gelu_tanh`, as torch's `gelu(approximate="tanh")`.
    """
    gate_up = gate_up.contiguous()
    size = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], size)
    grid = (out.numel() // size, ceil_div(size, _BLOCK), 1)
    launcher.launch("gated", _constants(activation), grid, (gate_up, out, groups(size)))
    return out


def silu_multiply(launcher: Launcher, gate_up: Tensor) -> Tensor:
    """See `kernels.activation.silu_multiply`."""
    return gated(launcher, gate_up, "silu")


def misfit(shape: ModelShape) -> str | None:
    """What of a model's shape no kernel is written for; None where all is well."""
    return layout.misfit("gates", shape.intermediate_size)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for."""
    yield Variant("gated", _constants(shape.activation), {"T": shape.dtype})


def _constants(activation: str) -> dict[str, Constant]:
    return {"ACTIVATION": activation, "BLOCK": _BLOCK, "num_warps": 4, "num_stages": 1}
