"""Gated activations: SwiGLU and its GELU relatives (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_GATED = (("gate_up", "*T"), ("out", "*T"), ("groups", "i32"))


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation of float32 numbers: `silu`, `gelu`, or `gelu_tanh`, which is gelu's tanh approximation."""
    if ACTIVATION == "silu":
        return x * tl.sigmoid(x)
    if ACTIVATION == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    # (1 + tanh(y)) / 2 is sigmoid(2y): Triton has no tanh of its own.
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit(do_not_specialize=scalars(_GATED))
def gated(gate_up, out, groups, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of 2 x 16 x `groups` elements: the activation of the first half times the second; a program a block."""
    size = groups * 16
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    row = tl.program_id(0).to(tl.int64)
    gate = tl.load(gate_up + row * 2 * size + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * size + columns, activated(gate, ACTIVATION) * up, mask=inside)


KERNELS = (KernelSpec("gated", gated, _GATED, ("ACTIVATION", "BLOCK")),)
