"""Projections on a CPU: a weight used as the checkpoint holds it, until `pack` lays it out for the processor."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from kernels.cpu.library import Library
from kernels.quantize import Matrix, QuantizedWeight

_STRIP = 32
"""Outputs of a packed weight are padded to a multiple of this."""

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
_ROWS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 5}
_PANELS = {torch.float32: 2, torch.bfloat16: 3, torch.int8: 4}

_POINTER, _INT32, _INT64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64


class Weight(ctypes.Structure):
    """`Weight` of source/table.h, where every field is explained."""

    _fields_ = (
        ("data", _POINTER), ("scales", _POINTER), ("bias", _POINTER), ("outputs", _INT64), ("inputs", _INT64),
        ("layout", _INT32),
    )


class UnsupportedOperand(ValueError):
    """The kernels do not take this dtype, shape or layout."""


class PackedLinear:
    """A projection by the C++ kernels. Arithmetic is float32, whatever the dtypes of weight and input.

    A row's result depends on the row and the weight alone, bit for bit: not on the other rows, on the threads, or on
    whether the weight is packed already (int8 excepted, which rounds the weight).

    Args:
        library: the kernels. A packed weight is only right for the variant that was in use when it was packed.
        weight: [outputs, inputs], float32, bfloat16 or rounded to int8, contiguous; may be a view of read-only memory.
        bias: [outputs], any floating dtype, or None.

    Raises:
        UnsupportedOperand: the weight is of another kind.
    """

    def __init__(self, library: Library, weight: Matrix, bias: Tensor | None = None) -> None:
        values, scales = (weight.values, weight.scales) if isinstance(weight, QuantizedWeight) else (weight, None)
        if values.ndim != 2 or not values.is_contiguous() or values.dtype not in _ROWS:
            raise UnsupportedOperand("a weight is [outputs, inputs], contiguous, float32, bfloat16 or int8")
        self._linear = library.handle["pilotlight_linear"]
        self._linear.argtypes = [_POINTER, _INT32, _INT32, _INT64, _POINTER, _INT64, _POINTER, _POINTER]
        self._pack = library.handle["pilotlight_pack_linear"]
        self._pack.argtypes = [_POINTER, _INT32, _INT32, _POINTER, _POINTER]
        self._outputs, self._inputs = values.shape
        self._data = values
        self._scales = None if scales is None else self._padded(scales)
        self._bias = None if bias is None else self._padded(bias.float())
        self._packed_bytes = 0
        self._weight = self._described(_ROWS[values.dtype])

    def _padded(self, vector: Tensor) -> Tensor:
        return pad(vector, (0, -self._outputs % _STRIP))

    def _described(self, layout: int) -> Weight:
        return Weight(
            self._data.data_ptr(), _pointer(self._scales), _pointer(self._bias), self._outputs, self._inputs, layout
        )

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed copy; 0 before `pack`."""
        return self._packed_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, inputs] to [tokens, outputs], in x's dtype: float32 or bfloat16.

        Raises:
            UnsupportedOperand: another dtype or shape, or gaps between the elements of a row.
        """
        dtype = _DTYPES.get(x.dtype)
        if dtype is None or x.ndim != 2 or x.shape[1] != self._inputs or (x.stride(1) != 1 and self._inputs > 1):
            raise UnsupportedOperand(f"an input is [tokens, {self._inputs}], float32 or bfloat16, rows without gaps")
        rows = len(x)
        y = torch.empty(rows, self._outputs, dtype=x.dtype)
        scratch = torch.empty(rows * self._inputs)
        self._linear(
            ctypes.byref(self._weight), dtype, torch.get_num_threads(), rows, x.data_ptr(), x.stride(0), y.data_ptr(),
            scratch.data_ptr(),
        )
        return y

    def pack(self, storage: torch.dtype | None = None) -> None:
        """Make the packed copy and drop the reference to the given weight. A second call does nothing.

        Args:
            storage: float32, bfloat16 or int8 (symmetric, a scale an output); None is the weight's own dtype.

        Raises:
            UnsupportedOperand: another storage dtype.
        """
        if self._packed_bytes:
            return
        storage = storage or self._data.dtype
        if storage not in _PANELS or (self._data.dtype is torch.int8 and storage is not torch.int8):
            raise UnsupportedOperand(f"weights are packed as float32, bfloat16 or int8, not {storage}")
        padded = self._outputs + -self._outputs % _STRIP
        panels = torch.empty(padded, self._inputs, dtype=storage)
        scales = torch.empty(padded) if storage is torch.int8 else None
        self._pack(
            ctypes.byref(self._weight), torch.get_num_threads(), _PANELS[storage], panels.data_ptr(), _pointer(scales)
        )
        if self._scales is None:
            self._scales = scales
        self._data = panels
        self._packed_bytes = panels.nbytes + (0 if scales is None else scales.nbytes)
        self._weight = self._described(_PANELS[storage])


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class OneDnnLinear:
    """A projection by oneDNN through torch, which multiplies bfloat16 natively where the processor can.

    Args:
        weight: [outputs, inputs], float32 or bfloat16.
        bias: [outputs], of the weight's dtype, or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._given: Tensor | None = weight
        self._bias = bias
        self._packed: Tensor | None = None

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed copy; 0 before `pack`."""
        return 0 if self._packed is None else self._packed.numel() * self._packed.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, inputs] to [tokens, outputs], both of the weight's dtype."""
        if self._given is not None:
            return linear(x, self._given, self._bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")  # noqa: SLF001 - torch has no other name for it

    def pack(self) -> None:
        """Make the packed copy and drop the reference to the given weight. A second call does nothing."""
        if self._given is None:
            return
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._given)  # noqa: SLF001 - likewise
        self._given = None


def fastest_linear(
    library: Library, weight: Matrix, bias: Tensor | None, activations: torch.dtype
) -> PackedLinear | OneDnnLinear:
    """The faster projection of inputs of dtype `activations`: oneDNN's where bfloat16 is native and all there is."""
    if isinstance(weight, Tensor) and weight.dtype is activations is torch.bfloat16 and multiplies_bfloat16():
        return OneDnnLinear(weight, bias)
    return PackedLinear(library, weight, bias)


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags
