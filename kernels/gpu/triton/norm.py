"""Root-mean-square norms, a row a program: the row is read once, stays in registers, and is written once."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.gpu.specification import KernelSpec, scalars

_RMS_NORM = (("x", "*T"), ("weight", "*T"), ("out", "*T"), ("groups", "i32"), ("epsilon", "fp32"))
_ADD_RMS_NORM = (("x", "*T"), ("residual", "*T"), ("weight", "*T"), ("groups", "i32"), ("epsilon", "fp32"))


@triton.jit
def normalised(row, weight, size, epsilon):
    """A float32 row of `size` elements, zeros after them, at root mean square 1 and scaled."""
    return row * tl.rsqrt(tl.sum(row * row, axis=0) / size + epsilon) * weight.to(tl.float32)


@triton.jit(do_not_specialize=scalars(_RMS_NORM))
def rms_norm(x, weight, out, groups, epsilon, BLOCK: tl.constexpr):
    """`out` = norm of `x`; rows of 16 x `groups` elements, `BLOCK` the next power of two."""
    size = groups * 16
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    first = tl.program_id(0).to(tl.int64) * size
    row = tl.load(x + first + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(out + first + columns, normalised(row, scale, size, epsilon), mask=inside)


@triton.jit(do_not_specialize=scalars(_ADD_RMS_NORM))
def add_rms_norm(x, residual, weight, groups, epsilon, BLOCK: tl.constexpr):
    """`residual` += `x`; `x` = norm of the sum as it was rounded. Both in place."""
    size = groups * 16
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    first = tl.program_id(0).to(tl.int64) * size
    added = tl.load(x + first + columns, mask=inside, other=0.0).to(tl.float32)
    stream = tl.load(residual + first + columns, mask=inside, other=0.0).to(tl.float32)
    total = (added + stream).to(x.dtype.element_ty)
    tl.store(residual + first + columns, total, mask=inside)
    scale = tl.load(weight + columns, mask=inside, other=0.0)
    tl.store(x + first + columns, normalised(total.to(tl.float32), scale, size, epsilon), mask=inside)


KERNELS = (
    KernelSpec("rms_norm", rms_norm, _RMS_NORM, ("BLOCK",)),
    KernelSpec("add_rms_norm", add_rms_norm, _ADD_RMS_NORM, ("BLOCK",)),
)
