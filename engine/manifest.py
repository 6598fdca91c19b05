"""What a baked folder says of itself: `boot.json`, written at build time, read on every start.

Its first line holds the SHA-256 of all the bytes after it, so that a manifest that was changed or cut is known without
writing it anew to compare. What is in the weights is for `image.verify`; here nothing but sizes, the weights' header
and two small files are read. On the boot path before torch: standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any, NamedTuple

from engine.errors import InvalidModel

MANIFEST = "boot.json"
WEIGHTS = "model.safetensors"
FORMAT = 1

SCALES = ".scales"
"""Ends the name of a quantised matrix's scales, which lie behind its values."""

PADDING = "padding."
"""Begins the names of the tensors that fill the gaps between aligned ones: safetensors allows no holes."""

WEIGHTS_DIGEST = "weights_sha256"
"""Where the weights' header, in its metadata, names what it heads: sisters of one shape have different headers."""

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own bound."""


class TensorRecord(NamedTuple):
    """One tensor of the baked weights.

    Attributes:
        dtype: as safetensors names it: `BF16`, `F16`, `F32`; `I8` (int8) or `U8` (packed int4) for a quantised matrix.
        offset: bytes from the start of the file, a multiple of 4096.
        sha256: of its bytes, in hex.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    sha256: str


class FileRecord(NamedTuple):
    """One file of the folder: its length, and the SHA-256 of its bytes in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Where the model came from.

    Attributes:
        source: a hub id, `demo`, or the folder's own name.
        revision: the hub's commit; None where there is none.
        config_sha256: of `config.json`.
    """

    source: str
    revision: str | None
    config_sha256: str


@dataclass(frozen=True, slots=True)
class KernelsRecord:
    """The compiled GPU kernels in `kernels/`.

    Attributes:
        architectures: compute capabilities times ten.
        dtypes: what the model may compute in with them.
        source_sha256: of the kernels' Triton sources (`kernels.gpu.index.source_hash`).
        triton: version of the compiler.
    """

    architectures: tuple[int, ...]
    dtypes: tuple[str, ...]
    source_sha256: str
    triton: str


@dataclass(frozen=True, slots=True)
class Quality:
    """What rounding the weights changed.

    Attributes:
        measure: `perplexity` of a fixed text, or `counting`: the demo model's share of right answers.
        samples: tokens, or answers, that it is the mean of.
    """

    measure: str
    before: float
    after: float
    samples: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A baked folder's table of contents.

    Attributes:
        code_version: of the Pilotlight that baked it.
        fingerprint: SHA-256 over weights, `config.json`, quantisation and code version: equal where what was worked
            out for one folder holds for another.
        quantize: `none`, `int8` or `int4`.
        quality: None where nothing was rounded.
        weight_bytes: of all tensors, as stored.
        kv_bytes_per_token: keys and values of one token over all layers, in a 16-bit type.
        header_sha256: of the weights' first bytes: the header's length and the header.
        kernels: None where none were compiled.
        files: every file but the manifest, by its path in the folder.
        tensors: in the order in which a decoder computes with them, which is that of their bytes in `WEIGHTS`.
    """

    model: ModelRecord
    code_version: str
    fingerprint: str
    quantize: str
    quality: Quality | None
    weight_bytes: int
    kv_bytes_per_token: int
    header_sha256: str
    kernels: KernelsRecord | None
    files: Mapping[str, FileRecord]
    tensors: tuple[TensorRecord, ...]


def fused_name(names: Sequence[str]) -> str:
    """What tensors are called once joined: q_proj, k_proj, v_proj are qkv_proj; gate_proj, up_proj are gate_up_proj.

    A single name stays. Names that do not have the form `PREFIX.PART_proj.KIND`, with one prefix and kind, are joined
    by `+`.
    """
    if len(names) == 1:
        return names[0]
    split = [_split(name) for name in names]
    parts = [part for _, part, _ in split]
    if not all(parts) or len({(prefix, kind) for prefix, _, kind in split}) > 1:
        return "+".join(names)
    prefix, _, kind = split[0]
    joint = "" if all(len(part) == 1 for part in parts) else "_"
    return f"{prefix}.{joint.join(parts)}_proj.{kind}"


def _split(name: str) -> tuple[str, str, str]:
    """`PREFIX.PART_proj.KIND` in its three parts; the middle one is empty for a name of another form."""
    head, _, kind = name.rpartition(".")
    prefix, _, projection = head.rpartition(".")
    return prefix, projection.removesuffix("_proj") if projection.endswith("_proj") else "", kind


def fingerprint(weights_sha256: str, config_sha256: str, quantize: str, code_version: str) -> str:
    """See `Manifest.fingerprint`."""
    return sha256("\n".join((weights_sha256, config_sha256, quantize, code_version)).encode()).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """The bytes of `boot.json`: a JSON object, one field a line."""
    fields: dict[str, object] = {"format": FORMAT, **asdict(manifest)}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
    body = (",\n".join(lines) + "\n}\n").encode()
    return f'{{"sha256": "{sha256(body).hexdigest()}",\n'.encode() + body


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest; None where there is none: the folder is not baked.

    Raises:
        InvalidModel: it cannot be read, is of a format newer than known, or its own hash does not fit.
    """
    path = folder / MANIFEST
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except _Unfit as error:
        raise InvalidModel(f"{path} {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidModel(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def check(folder: Path, manifest: Manifest) -> None:
    """Hold the folder against its manifest as far as that goes without reading weights.

    Raises:
        InvalidModel: a file is missing or of another length, or `config.json` or the weights' header is not the one
            the manifest was written for.
    """
    for problem in damaged_files(folder, manifest).values():
        raise InvalidModel(problem)


def damaged_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """All that `check` finds: what is wrong, by the file's name."""
    sizes = {name: _size_problem(folder / name, record.bytes) for name, record in manifest.files.items()}
    found = {name: problem for name, problem in sizes.items() if problem}
    for name, digest in (("config.json", manifest.model.config_sha256), (WEIGHTS, manifest.header_sha256)):
        if name not in found and (problem := _start_problem(folder / name, digest)):
            found[name] = problem
    return found


class _Unfit(Exception):
    """What is wrong with a manifest, as the end of a sentence that begins with its path."""


def _decode(content: bytes) -> Manifest:
    fields = json.loads(content)
    if fields["format"] > FORMAT:
        raise _Unfit(f"is of format {fields['format']}; this Pilotlight knows {FORMAT} and older: bake it again")
    if sha256(content.partition(b"\n")[2]).hexdigest() != fields["sha256"]:
        raise _Unfit("is not as it was written: its own hash does not fit")
    del fields["format"], fields["sha256"]
    return _manifest(fields)


def _manifest(fields: dict[str, Any]) -> Manifest:
    quality, kernels = fields["quality"], fields["kernels"]
    fields["model"] = ModelRecord(**fields["model"])
    fields["quality"] = quality and Quality(**quality)
    fields["kernels"] = kernels and KernelsRecord(
        **kernels | {name: tuple(kernels[name]) for name in ("architectures", "dtypes")}
    )
    fields["files"] = {_inside(name): FileRecord(*record) for name, record in fields["files"].items()}
    fields["tensors"] = tuple(
        TensorRecord(name, dtype, tuple(shape), *rest) for name, dtype, shape, *rest in fields["tensors"]
    )
    return Manifest(**fields)


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} lies outside the folder")
    return name


def _size_problem(path: Path, expected: int) -> str | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return f"{path} is missing; {MANIFEST} names it"
    except OSError as error:
        return f"{path} cannot be read: {error}"
    if not S_ISREG(status.st_mode):
        return f"{path} is not a file"
    if status.st_size != expected:
        kind = "truncated" if status.st_size < expected else "another file"
        return f"{path} has {status.st_size} bytes and not the {expected} that {MANIFEST} names: it is {kind}"
    return None


def _start_problem(path: Path, digest: str) -> str | None:
    try:
        start = path.read_bytes() if path.name != WEIGHTS else _header(path)
    except OSError as error:
        return f"{path} cannot be read: {error}"
    if sha256(start).hexdigest() == digest:
        return None
    return f"{path} is not what {MANIFEST} was written for: one of them is another model's, or damaged"


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
