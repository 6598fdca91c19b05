"""A model folder's tensors, by name, where the model computes: memory-mapped on a CPU, streamed to a device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import InvalidModel
from engine.manifest import PADDING, SCALES, fused_name
from engine.tensor_file import Entry, TensorFile, read_header, weight_files
from kernels.quantize import Matrix, QuantizedWeight, dequantize

DTYPES = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I8": torch.int8,
    "U8": torch.uint8,
}
"""The dtypes that weights may have, by the names safetensors gives them; the integers are quantised matrices'."""

_FLOATS = ("BF16", "F16", "F32", "F64")

_log = logging.getLogger("pilotlight.weights")


class TensorSource(Protocol):
    """Where a decoder gets its tensors from.

    Attributes:
        dtype: what the model computes in.
        bytes: what all tensors take once loaded.
    """

    dtype: torch.dtype
    bytes: int

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name and shape, on the device."""

    def fused(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Matrix:
        """Tensors joined along their first dimension; a matrix may be quantised."""

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Log the tensors that nobody took, but for those whose names end in one of `harmless`."""

    def finish(self) -> None:
        """Wait until all that was taken has arrived."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a file holds it."""

    file: TensorFile
    entry: Entry

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.entry.dtype]


class Placement(Protocol):
    """Brings stored tensors to where the model computes."""

    def place(self, parts: Sequence[Stored], dtype: torch.dtype) -> Tensor:
        """The parts joined along their first dimension; their numbers may arrive later, by the end of `finish`."""

    def finish(self) -> None:
        """Wait until all that was placed has arrived.

        Raises:
            InvalidModel: something could not be read.
        """


class Weights:
    """A folder's tensors, placed as they are taken.

    Args:
        dtype: what the model computes in.
        matrix_dtype: the dtype to keep a matrix in, by the dtype it is stored in.

    Attributes:
        bytes: what all tensors take once loaded.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, matrix_dtype: Callable[[torch.dtype, torch.dtype], torch.dtype],
        placement: Placement,
    ) -> None:
        self.dtype = dtype
        self._matrix_dtype = matrix_dtype
        self._placement = placement
        files = [read_header(path) for path in weight_files(folder)]
        self._stored = {
            name: Stored(file, entry)
            for file in files for name, entry in file.entries.items() if not name.startswith(PADDING)
        }
        self._taken: set[str] = set()
        self.bytes = sum(self._loaded_bytes(stored.entry) for stored in self._stored.values())

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, on the device; a matrix is of its own dtype, all others of the model's.

        Raises:
            InvalidModel: it is missing, of another shape, or cannot be read.
        """
        return self._placement.place([self._find(name, shape)], self._dtype_of([name]))

    def fused(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Matrix:
        """Tensors joined along their first dimension; a baked folder holds them so, and may hold them quantised.

        Raises:
            InvalidModel: one is missing, of another shape, or cannot be read.
        """
        joined = fused_name(names)
        if joined + SCALES in self._stored:
            return self._quantized(joined, sum(shape[0] for shape in shapes), shapes[0][1])
        if len(names) > 1 and joined in self._stored:
            return self.take(joined, (sum(shape[0] for shape in shapes), *shapes[0][1:]))
        parts = [self._find(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return self._placement.place(parts, self._dtype_of(names))

    def finish(self) -> None:
        """Wait until all that was taken has arrived.

        Raises:
            InvalidModel: something could not be read.
        """
        self._placement.finish()

    def _quantized(self, name: str, outputs: int, inputs: int) -> Matrix:
        """A matrix that was baked in 8 or 4 bits: as it is where that can be computed with, else widened."""
        packed = self._entry_of(name).dtype == "U8"
        values = self._find(name, (outputs, inputs // 2 if packed else inputs), ("U8", "I8"))
        groups = self._entry_of(name + SCALES).shape[0]
        scales = self._find(name + SCALES, (groups, outputs) if packed else (outputs,), ("F32",))
        matrix = QuantizedWeight(*(self._placement.place([part], part.dtype) for part in (values, scales)))
        if packed and inputs % (2 * groups):
            raise InvalidModel(f"{values.file.path}: {name} has {inputs} inputs, no whole {groups} groups of them")
        kept = self._matrix_dtype(values.dtype, self.dtype)
        if kept is values.dtype:
            return matrix
        self._placement.finish()
        return dequantize(matrix, kept)

    def _entry_of(self, name: str) -> Entry:
        if name not in self._stored:
            raise InvalidModel(f"the weights hold no tensor {name}; {len(self._stored)} others are there")
        return self._stored[name].entry

    def _find(self, name: str, shape: tuple[int, ...], dtypes: Sequence[str] = _FLOATS) -> Stored:
        entry = self._entry_of(name)
        stored = self._stored[name]
        path = stored.file.path
        if entry.shape != shape:
            raise InvalidModel(f"{path}: {name} has the shape {entry.shape}; config.json asks for {shape}")
        if entry.dtype not in dtypes:
            raise InvalidModel(f"{path}: {name} is of the dtype {entry.dtype}; quantised weights are not supported")
        self._taken.add(name)
        return stored

    def _dtype_of(self, names: Sequence[str]) -> torch.dtype:
        """What joined tensors are kept in: the widest dtype that any of them is."""
        wanted = [self._kept(self._stored[name].entry) for name in names]
        return max(wanted, key=lambda dtype: dtype.itemsize)

    def _kept(self, entry: Entry) -> torch.dtype:
        stored = DTYPES.get(entry.dtype, self.dtype)
        return self._matrix_dtype(stored, self.dtype) if len(entry.shape) == 2 else self.dtype

    def _loaded_bytes(self, entry: Entry) -> int:
        kept = self._kept(entry)
        in_halves = entry.dtype == "U8" and kept is not torch.uint8  # Two inputs a byte, until they are widened.
        return math.prod(entry.shape) * kept.itemsize * (2 if in_halves else 1)

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Log the tensors that nobody took, but for those whose names end in one of `harmless`."""
        unused = sorted(name for name in self._stored.keys() - self._taken if not name.endswith(tuple(harmless)))
        if unused:
            _log.warning("%d tensors of the weights are not used, %s first", len(unused), unused[0])
