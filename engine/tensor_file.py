"""What safetensors files hold and where, by their headers alone (format: github.com/huggingface/safetensors#format).

Before torch: a boot reads the weights while torch is still being imported.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidModel
from engine.manifest import PADDING
from engine.source import INDEX, chosen_weights, indexed_weights

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}
"""Bits of one number, by the names safetensors gives its dtypes."""

_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own bound."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `begin` and `end` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """A safetensors file.

    Attributes:
        size: bytes of the whole file.
        entries: its tensors by name.
        metadata: what its writer noted beside them.
    """

    path: Path
    size: int
    entries: dict[str, Entry]
    metadata: dict[str, str]


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: those its index names, or else all there are.

    Raises:
        InvalidModel: there are none, or one that the index names is missing. Other formats are never read: they can
            run code.
    """
    index = folder / INDEX
    if index.exists():
        return _indexed_files(index)
    files = [folder / name for name in chosen_weights(path.name for path in folder.glob("*.safetensors"))]
    for file in files:
        if not file.is_file():
            raise InvalidModel(f"{file} is not a whole safetensors file: not a file at all")
    if not files:
        raise InvalidModel(f"{folder} holds no safetensors file; other weight formats are not read")
    return files


def _indexed_files(index: Path) -> list[Path]:
    try:
        files = [index.parent / name for name in indexed_weights(index)]
        missing = [file for file in files if not file.is_file()]
    except OSError as error:
        raise InvalidModel(f"{index} cannot be read: {error}") from None
    if missing:
        raise InvalidModel(f"{missing[0]} is missing; {index.name} names it")
    return files


def read_header(path: Path) -> TensorFile:
    """What the file's header says, checked against the file's size.

    Raises:
        InvalidModel: it is not a safetensors file, or not a whole one.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header would be {length} bytes long, the file is {size}")
            header = json.loads(file.read(length))
        return _parse(path, size, 8 + length, header)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidModel(f"{path} is not a whole safetensors file: {error}") from None


def _parse(path: Path, size: int, start: int, header: dict[str, Any]) -> TensorFile:
    metadata = header.pop("__metadata__", {})
    entries = {name: _entry(name, start, fields) for name, fields in header.items()}
    end = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise ValueError(f"{entry.name} begins at byte {entry.begin}, what is before it ends at {end}")
        end = entry.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end}, the file at {size}")
    return TensorFile(path, size, entries, metadata)


def _entry(name: str, start: int, fields: dict[str, Any]) -> Entry:
    dtype, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has a shape or place that is no whole number")
    if dtype in BITS and 8 * (end - begin) != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"{name} takes {end - begin} bytes, which is not {dtype} of the shape {list(shape)}")
    return Entry(name, dtype, shape, start + begin, start + end)


def reading_order(file: TensorFile) -> list[Entry]:
    """The file's tensors in the order a decoder computes with them: embedding, layer by layer, norm, head.

    Without those that only fill the gaps of a baked file.
    """
    entries = (entry for name, entry in file.entries.items() if not name.startswith(PADDING))
    return sorted(entries, key=lambda entry: (_stage(entry.name), entry.begin))


def _stage(name: str) -> int:
    layer = re.search(r"\.layers\.(\d{1,6})\.", name)
    if layer:
        return 1 + int(layer[1])
    return 0 if "embed" in name else 10**6 if "norm" in name else 10**6 + 1
