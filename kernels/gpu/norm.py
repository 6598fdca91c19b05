"""Root-mean-square norms on the GPU; what they compute is defined in `kernels.norm`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.gpu import layout
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import groups, power_of_two
from kernels.gpu.specification import Constant, ModelShape, UnsupportedShape, Variant


def rms_norm(launcher: Launcher, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Norm of the last dimension, a multiple of 16; see `kernels.norm.rms_norm`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    size = x.shape[-1]
    arguments = (x, weight, out, groups(size), epsilon)
    launcher.launch("rms_norm", _constants(size), (x.numel() // size, 1, 1), arguments)
    return out


def add_rms_norm(
    launcher: Launcher, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Both results take the place of the inputs; see `kernels.norm.add_rms_norm`.

    Raises:
        UnsupportedShape: an input is not contiguous, or its last dimension not a multiple of 16.
    """
    if not (x.is_contiguous() and residual.is_contiguous()):
        raise UnsupportedShape("add_rms_norm works in place, on contiguous tensors")
    size = x.shape[-1]
    arguments = (x, residual, weight, groups(size), epsilon)
    launcher.launch("add_rms_norm", _constants(size), (x.numel() // size, 1, 1), arguments)
    return x, residual


def misfit(shape: ModelShape) -> str | None:
    """What of a model's shape no kernel is written for; None where all is well."""
    return layout.misfit("hidden states", shape.hidden_size)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for."""
    for kernel in ("rms_norm", "add_rms_norm"):
        yield Variant(kernel, _constants(shape.hidden_size), {"T": shape.dtype})


def _constants(size: int) -> dict[str, Constant]:
    """Eight elements a thread, one 16-byte load, as far as a block has threads."""
    block = power_of_two(size)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16), "num_stages": 1}
