"""A model folder's tensors, by name, onto the device."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import InvalidModel

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""The dtypes that weights may have, by the names safetensors gives them."""

_log = logging.getLogger("pilotlight.weights")


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those its index names, or else all there are.

    Raises:
        InvalidModel: there are none, or one that the index names is missing. Other formats are never read: they can
            run code.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return _indexed_files(index)
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():
            raise InvalidModel(f"{file} is not a whole safetensors file: not a file at all")
    if not files:
        raise InvalidModel(f"{folder} holds no safetensors file; other weight formats are not read")
    return files


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / name for name in names]
        missing = [file for file in files if not file.is_file()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InvalidModel(f"{index} cannot be read: {type(error).__name__}: {error}") from None
    if missing:
        raise InvalidModel(f"{missing[0]} is missing; {index.name} names it")
    return files


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

    def fused(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> Tensor:
        """Tensors joined along their first dimension."""

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Log the tensors that nobody took, but for those whose names end in one of `harmless`."""


class Weights:
    """Tensors memory-mapped from safetensors files, converted and moved as they are taken.

    Args:
        dtype: what the model computes in.
        matrix_dtype: the dtype to keep a matrix in, by the dtype it is stored in.

    Attributes:
        bytes: what all tensors take once loaded.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype, device: torch.device,
        matrix_dtype: Callable[[torch.dtype, torch.dtype], torch.dtype],
    ) -> None:
        self.dtype = dtype
        self._device = device
        self._matrix_dtype = matrix_dtype
        self._files = {path: _open(path) for path in weight_files(folder)}
        self._path_of = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self._taken: set[str] = set()
        self.bytes = sum(self._loaded_bytes(name) for name in self._path_of)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name, on the device; a matrix is of its own dtype, all others of the model's.

        Raises:
            InvalidModel: it is missing, of another shape, or cannot be read.
        """
        if name not in self._path_of:
            raise InvalidModel(f"the weights hold no tensor {name}; {len(self._path_of)} others are there")
        path = self._path_of[name]
        try:
            tensor: Tensor = self._files[path].get_tensor(name)
        except SafetensorError as error:
            raise InvalidModel(f"{path}: {name} cannot be read: {error}") from None
        if tuple(tensor.shape) != shape:
            raise InvalidModel(f"{path}: {name} has the shape {tuple(tensor.shape)}; config.json asks for {shape}")
        if tensor.dtype not in _DTYPES.values():
            raise InvalidModel(f"{path}: {name} is of the dtype {tensor.dtype}; quantised weights are not supported")
        self._taken.add(name)
        return tensor.to(self._device, self._dtype_of(tensor.ndim, tensor.dtype))

    def fused(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> Tensor:
        """Tensors joined along their first dimension."""
        parts = [self.take(name, shape) for name, shape in zip(names, shapes, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _dtype_of(self, dimensions: int, stored: torch.dtype) -> torch.dtype:
        return self._matrix_dtype(stored, self.dtype) if dimensions == 2 else self.dtype

    def _loaded_bytes(self, name: str) -> int:
        header = self._files[self._path_of[name]].get_slice(name)
        shape = header.get_shape()
        stored = _DTYPES.get(header.get_dtype(), self.dtype)
        return math.prod(shape) * self._dtype_of(len(shape), stored).itemsize

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Log the tensors that nobody took, but for those whose names end in one of `harmless`."""
        unused = sorted(name for name in self._path_of.keys() - self._taken if not name.endswith(tuple(harmless)))
        if unused:
            _log.warning("%d tensors of the weights are not used, %s first", len(unused), unused[0])


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InvalidModel(f"{path} is not a whole safetensors file: {error}") from None
