"""The folder of compiled kernels: cubins, and an index that says what each takes and where it runs.

Cubins are named by what is in them and the index is put in place last, in one step. So a compilation that was
interrupted leaves the folder as it was, plus files that nothing names; and an index never names a file that is half
written.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from kernels.gpu.specification import Constant

INDEX = "index.json"
_FORMAT = 1
_TARGET = re.compile(r"sm_(\d+)([a-z]?)")
_SOURCES = Path(__file__).parent / "triton"


class IndexMissing(FileNotFoundError):
    """A folder that holds no index of compiled kernels."""


class IndexBroken(ValueError):
    """An index that cannot be read, or a cubin that is not the one the index names."""


class IndexStale(ValueError):
    """An index made from other kernel sources than those installed."""


Key = tuple[str, frozenset[tuple[str, Constant]], tuple[str | None, ...]]
"""What a launch is looked up by: kernel, constants, and for each argument its pointer type, or None for a number."""


@dataclass(frozen=True, slots=True)
class Binary:
    """One variant compiled for one architecture.

    Attributes:
        kernel: the kernel's name.
        types: what the letters in the kernel's kinds stand for.
        constants: compile-time constants and compiler options.
        arguments: (name, Triton type) of every argument, in order.
        hidden: parameters that the compiler added after them, all pointers, which take null.
        function: the entry's name in the cubin.
        target: `sm_80`, `sm_90a`: see `serves`.
        warps: warps of 32 threads in a program.
        shared: bytes of dynamic shared memory a program takes.
        file: the cubin, relative to the index.
        sha256: of the cubin's bytes.
        size: of the cubin in bytes.
    """

    kernel: str
    types: Mapping[str, str]
    constants: Mapping[str, Constant]
    arguments: tuple[tuple[str, str], ...]
    hidden: int
    function: str
    target: str
    warps: int
    shared: int
    file: str
    sha256: str
    size: int

    @property
    def key(self) -> Key:
        """What a launch finds this by."""
        pointers = tuple(kind if kind.startswith("*") else None for _, kind in self.arguments)
        return self.kernel, frozenset(self.constants.items()), pointers

    @property
    def architecture(self) -> int:
        """80 of `sm_80`, 90 of `sm_90a`."""
        return _architecture(self.target)[0]

    def serves(self, capability: int) -> bool:
        """Whether it runs on a device of a compute capability, 89 for 8.9.

        A cubin runs on its own architecture and on later minor ones of the same major; one whose target ends in a
        letter uses what only that very architecture has (CUDA C++ Programming Guide, "Binary Compatibility" and
        "Feature Set Compiler Targets").
        """
        architecture, specific = _architecture(self.target)
        if specific:
            return architecture == capability
        return architecture // 10 == capability // 10 and architecture <= capability

    def read(self, folder: Path) -> bytes:
        """The cubin.

        Raises:
            IndexBroken: it is missing, or not what was written.
        """
        try:
            cubin = (folder / self.file).read_bytes()
        except OSError as error:
            raise IndexBroken(f"{folder}: the index names {self.file}, which cannot be read: {error}") from error
        if sha256(cubin).hexdigest() != self.sha256:
            raise IndexBroken(f"{folder}: {self.file} is damaged; compile the kernels again")
        return cubin


@dataclass(frozen=True, slots=True)
class Index:
    """Everything a folder holds.

    Attributes:
        triton: version of the compiler.
        source: `source_hash` of what was compiled.
    """

    triton: str
    source: str
    binaries: tuple[Binary, ...]

    def for_device(self, capability: int) -> dict[Key, Binary]:
        """The best binary of each variant for a device: of its own architecture, else the nearest that serves."""
        serving = [binary for binary in self.binaries if binary.serves(capability)]
        return {binary.key: binary for binary in sorted(serving, key=lambda binary: binary.architecture)}

    def joined(self, newer: Index) -> Index:
        """Both, the newer where they have the same variant; only the newer if they differ in compiler or source.

        In the same order whatever the order in which they were compiled, so that an image of them can be made again.
        """
        same = (self.triton, self.source) == (newer.triton, newer.source)
        known = (*self.binaries, *newer.binaries) if same else newer.binaries
        binaries = {(binary.key, binary.target): binary for binary in known}
        return Index(newer.triton, newer.source, tuple(sorted(binaries.values(), key=_place)))

    def require_current(self) -> None:
        """Hold the index against the kernels' sources as they are installed.

        Raises:
            IndexStale: they were changed since.
        """
        if self.source != source_hash():
            raise IndexStale("the compiled kernels are not of the installed sources; run python -m kernels.precompile")

    @classmethod
    def read(cls, folder: Path) -> Index:
        """The index of a folder.

        Raises:
            IndexMissing: there is none.
            IndexBroken: it is not one of ours.
        """
        path = folder / INDEX
        try:
            return _parsed(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise IndexMissing(f"{folder} holds no compiled kernels: {INDEX} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IndexBroken(f"{path} is not an index of compiled kernels: {error}") from error

    def write(self, folder: Path, cubins: Mapping[str, bytes]) -> None:
        """Put cubins and index in a folder, made if need be, and drop the cubins that only the index before named.

        Args:
            cubins: file, as in `Binary.file`, to bytes: those that are not there yet.
        """
        before = _files(folder)
        for file, cubin in cubins.items():
            _replace(folder / file, cubin)
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        _replace(folder / INDEX, text.encode())
        for file in before - {binary.file for binary in self.binaries}:
            (folder / file).unlink(missing_ok=True)


def cubin_file(target: str, kernel: str, cubin: bytes) -> str:
    """Where a cubin lies in its folder; the name changes with the content."""
    return f"{target}/{kernel}-{sha256(cubin).hexdigest()[:16]}.cubin"


def source_hash() -> str:
    """SHA-256 of the kernels' Triton sources, in hex."""
    digest = sha256()
    for path in sorted(_SOURCES.glob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _place(binary: Binary) -> tuple[str, str, list[str]]:
    """Where it stands in an index; variants with the same code share a file."""
    return binary.file, str(binary.arguments), sorted(map(str, binary.constants.items()))


def _architecture(target: str) -> tuple[int, bool]:
    match = _TARGET.fullmatch(target)
    if match is None:
        raise IndexBroken(f"{target!r} is no architecture")
    return int(match[1]), bool(match[2])


def _parsed(content: Mapping[str, Any]) -> Index:
    if content["format"] != _FORMAT:
        raise IndexBroken(f"format {content['format']!r}, not {_FORMAT}")
    return Index(content["triton"], content["source"], tuple(_binary(entry) for entry in content["binaries"]))


def _binary(entry: Mapping[str, Any]) -> Binary:
    arguments: Sequence[tuple[str, str]] = entry["arguments"]
    binary = Binary(**{**entry, "arguments": tuple((name, kind) for name, kind in arguments)})
    _architecture(binary.target)
    if Path(binary.file).is_absolute() or ".." in Path(binary.file).parts:
        raise IndexBroken(f"{binary.file} lies outside the folder")
    return binary


def _files(folder: Path) -> set[str]:
    try:
        return {binary.file for binary in Index.read(folder).binaries}
    except (IndexMissing, IndexBroken):
        return set()


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
