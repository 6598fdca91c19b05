"""How a baked file is laid out: which tensors, in which order, where, all worked out before a byte is written.

Order and fusing are what the decoder itself asks for: it is built once against a source that only takes notes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.layers import Decoder
from engine.manifest import PADDING, SCALES, WEIGHTS_DIGEST, fused_name
from engine.models.architecture import Architecture
from engine.tensor_file import BITS
from kernels.operations import Linear, ReferenceOperations
from kernels.quantize import Matrix

ALIGNMENT = 4096
"""Bytes; a page of memory, and of what storage reads directly."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor as the decoder takes it.

    Attributes:
        parts: names and shapes of the tensors that are joined into it, along their first dimension.
        rounds: whether quantisation rounds it: the weight of a projection, but for the head.
    """

    name: str
    parts: tuple[tuple[str, tuple[int, ...]], ...]
    rounds: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The joined tensor's."""
        shapes = [shape for _, shape in self.parts]
        return sum(shape[0] for shape in shapes), *shapes[0][1:]


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place in the baked file.

    Attributes:
        dtype: as safetensors names it.
        offset: bytes from the start of the data, which begins right behind the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


def pieces(shape: Architecture) -> list[Piece]:
    """What a decoder of that shape is made of, in the order in which it computes with it."""
    notes = _Notes()
    operations = _NotingOperations()
    Decoder(shape, notes, 1, operations)
    rounds = {id(weight) for weight in operations.rounds}
    return [
        Piece(fused_name(names), tuple(zip(names, shapes, strict=True)), id(tensor) in rounds)
        for names, shapes, tensor in notes.taken
    ]


def place(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Slot]:
    """Places for tensors of (name, dtype, shape), one behind the other, each on `ALIGNMENT`."""
    slots: list[Slot] = []
    end = 0
    for name, dtype, shape in tensors:
        slot = Slot(name, dtype, shape, _aligned(end))
        end = slot.offset + slot.bytes
        slots.append(slot)
    return slots


def header(slots: Sequence[Slot], weights_sha256: str) -> bytes:
    """A safetensors file's first bytes, up to its data; as long, whatever the digest.

    Gaps are tensors of bytes, as the format allows none; blanks behind the header bring the data to `ALIGNMENT`.
    """
    fields: dict[str, object] = {"__metadata__": {"format": "pt", WEIGHTS_DIGEST: weights_sha256}}
    end = 0
    for slot in slots:
        if slot.offset > end:
            fields[f"{PADDING}{len(fields)}"] = _entry("U8", (slot.offset - end,), end, slot.offset)
        end = slot.offset + slot.bytes
        fields[slot.name] = _entry(slot.dtype, slot.shape, slot.offset, end)
    text = json.dumps(fields, separators=(",", ":")).encode()
    length = _aligned(8 + len(text)) - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def stored_forms(piece: Piece, dtype: str, quantize: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """What a piece of that dtype is stored as: itself, or the values and scales of `kernels.quantize`."""
    if quantize == "none" or not piece.rounds:
        return [(piece.name, dtype, piece.shape)]
    outputs, inputs = piece.shape
    if quantize == "int8":
        return [(piece.name, "I8", (outputs, inputs)), (piece.name + SCALES, "F32", (outputs,))]
    groups = inputs // group_size(inputs)
    return [(piece.name, "U8", (outputs, inputs // 2)), (piece.name + SCALES, "F32", (groups, outputs))]


def group_size(inputs: int) -> int:
    """Inputs that share a scale in int4: 128, or 64 where these are no whole groups of 128; 0 where neither fits."""
    return next((size for size in (128, 64) if inputs % size == 0), 0)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> Mapping[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": (begin, end)}


class _Notes:
    """A source of tensors without numbers, which notes what is taken."""

    dtype = torch.float32
    bytes = 0

    def __init__(self) -> None:
        self.taken: list[tuple[Sequence[str], Sequence[tuple[int, ...]], Tensor]] = []

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.fused([name], [shape])

    def fused(self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Tensor:
        names, shapes = tuple(names), tuple(shapes)
        tensor = torch.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), device="meta")
        self.taken.append((names, shapes, tensor))
        return tensor

    def warn_of_unused(self, harmless: Iterable[str]) -> None:
        """Nothing is there to be unused."""

    def finish(self) -> None:
        """Nothing is on its way."""


class _NotingOperations(ReferenceOperations):
    """Notes the weights that quantisation rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[Tensor] = []

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        if not exact and isinstance(weight, Tensor):
            self.rounds.append(weight)
        return super().linear(weight, bias, exact=exact)
