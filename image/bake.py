"""SRC to a baked folder: fused, in order, aligned, rounded if asked, checked, with a manifest of every byte."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from engine.errors import InvalidModel
from engine.manifest import (
    MANIFEST,
    WEIGHTS,
    FileRecord,
    KernelsRecord,
    Manifest,
    ModelRecord,
    Quality,
    check,
    encode,
    fingerprint,
    read_manifest,
)
from engine.models import read_architecture
from engine.models.architecture import Architecture
from engine.source import Found, locate
from image.folder import BakeFailed, require_apart, require_free, require_room, staged
from image.layout import Piece, Slot, group_size, pieces, place, stored_forms
from image.progress import Progress, unseen
from image.quality import baked_load, measure_change
from image.tensors import Tensors
from image.text_check import check_text
from image.writing import Written, record, write_weights

Rounding = Literal["none", "int8", "int4"]

_COPIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.json", "chat_template.jinja", "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*",
)
"""What the engine reads beside the weights, and what a model's owner may ask to go with it."""

_HARMLESS = ("rotary_emb.inv_freq", "lm_head.weight")
"""Tensors that old folders hold, and tied ones, though nobody needs them there."""

_SPARE = 1 << 20
"""Bytes for the manifest and the folder's own."""

@dataclass(frozen=True, slots=True)
class BakeOptions:
    """What is baked, and how.

    Attributes:
        revision: a commit, tag or branch of the hub.
        quantize: how the projections' weights are rounded, but for the head's; `kernels.quantize` has the arithmetic.
        architectures: compute capabilities times ten to compile kernels for.
        dtypes: what the model may compute in with these kernels; the engine takes bfloat16 unless told otherwise, on
            every GPU that they can be compiled for.
        force: replace a baked folder.
        jobs: processes that compile.
    """

    revision: str | None = None
    quantize: Rounding = "none"
    architectures: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("bfloat16",)
    force: bool = False
    jobs: int = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Report:
    """What was made.

    Attributes:
        bytes: of all files.
        tensors: in the weights, rounded ones counting once for values and once for scales.
        manifest: where it is.
        quality: what rounding changed; None where nothing was rounded.
        warnings: a line each.
    """

    bytes: int
    tensors: int
    seconds: float
    manifest: str
    quality: dict[str, object] | None
    warnings: tuple[str, ...]


def bake(source: str, out: Path, options: BakeOptions | None = None, progress: Progress = unseen) -> Report:
    """Bake a model into a folder, which appears whole or not at all.

    Args:
        source: `demo`, a folder, or a hub id.

    Raises:
        ModelNotFound, InvalidModel, InvalidConfig: of the source.
        BakeFailed: it cannot be put there, or not be rounded or compiled as asked.
    """
    began, options, out = time.monotonic(), options or BakeOptions(), out.expanduser().resolve()
    require_free(out, options.force)
    found = locate(source, options.revision)
    require_apart(out, found.folder.resolve())
    model = _Source(source, found, options.quantize)
    out.parent.mkdir(parents=True, exist_ok=True)
    require_room(out, model.bytes + _SPARE)
    with staged(out) as folder:
        manifest = _fill(folder, model, options, progress)
    size = sum(file.bytes for file in manifest.files.values()) + (out / MANIFEST).stat().st_size
    quality = asdict(manifest.quality) if manifest.quality else None
    seconds = round(time.monotonic() - began, 3)
    return Report(size, len(manifest.tensors), seconds, str(out / MANIFEST), quality, tuple(model.warnings()))


class _Source:
    """A model to bake, planned to the last byte.

    Attributes:
        pieces: as the folder holds them.
        slots: where each tensor will stand.
        bytes: that will be written, at most but for alignment.
    """

    def __init__(self, name: str, found: Found, quantize: Rounding) -> None:
        self.name, self.found = name, found
        self.shape: Architecture = read_architecture(found.folder)
        _require_not_rounded(found.folder)
        self._text_warnings = tuple(check_text(found.folder, self.shape.vocab_size))
        self.tensors = Tensors(found.folder)
        self.pieces: list[Piece] = [self.tensors.resolve(piece) for piece in pieces(self.shape)]
        if quantize == "int4":
            _require_groups(self.pieces)
        self.slots: list[Slot] = place(
            form for piece in self.pieces for form in stored_forms(piece, self.tensors.dtype(piece), quantize)
        )
        self.bytes = self.slots[-1].offset + self.slots[-1].bytes

    def record(self) -> ModelRecord:
        """Where it came from; a folder's own name, as where it lay says nothing elsewhere."""
        named = self.found.kind in ("demo", "host cache", "hub cache", "hub")
        name = self.name if named else self.found.folder.resolve().name
        return ModelRecord(name, self.found.revision, record(self.found.folder / "config.json").sha256)

    def warnings(self) -> Iterator[str]:
        """What may be a mistake, a line each."""
        yield from self._text_warnings
        taken = {name for piece in self.pieces for name, _ in piece.parts}
        unused = sorted(name for name in self.tensors.names - taken if not name.endswith(_HARMLESS))
        if unused:
            yield f"{len(unused)} tensors of the weights are not used and not baked, {unused[0]} first"


def _require_not_rounded(folder: Path) -> None:
    """A baked folder may be baked again, but what was rounded is not what the model was.

    Raises:
        InvalidModel: it was rounded, or is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    check(folder, manifest)
    if manifest.quantize != "none":
        raise InvalidModel(f"{folder} is baked with {manifest.quantize} weights; bake from what it was made of")


def _require_groups(planned: list[Piece]) -> None:
    for piece in planned:
        if piece.rounds and not group_size(piece.shape[1]):
            cause = f"{piece.name} has {piece.shape[1]}, which are no whole groups of 64 or 128"
            raise BakeFailed(f"int4 rounds groups of inputs: {cause}; int8 does not mind")


def _fill(folder: Path, model: _Source, options: BakeOptions, progress: Progress) -> Manifest:
    _copy(model.found.folder, folder)
    kernels = _compile(folder, options) if options.architectures else None
    total = 2 * sum(slot.bytes for slot in model.slots)
    with progress("baking", total) as advance:
        written = write_weights(
            folder / WEIGHTS, model.slots, model.pieces, model.tensors, options.quantize, advance
        )
    quality = _quality(folder, model) if options.quantize != "none" else None
    manifest = _manifest(folder, model, written, options.quantize, quality, kernels)
    (folder / MANIFEST).write_bytes(encode(manifest))
    return manifest


def _copy(source: Path, folder: Path) -> None:
    """The files beside the weights; what they are links to, as in a hub cache, not the links."""
    for path in sorted({path for pattern in _COPIED for path in source.glob(pattern) if path.is_file()}):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


def _compile(folder: Path, options: BakeOptions) -> KernelsRecord:
    """Compile what this model's shape asks for into `kernels/`, in an order that is always the same."""
    from kernels.gpu.variants import PAGE_SIZE, ModelUnreadable, model_shapes, variants_of
    from kernels.precompile import precompile

    try:
        variants = variants_of(model_shapes(folder, options.dtypes, PAGE_SIZE))
        index = precompile(variants, options.architectures, folder / "kernels", options.jobs)
    except ImportError as error:
        raise BakeFailed(f"kernels cannot be compiled here: {error} (pip install pilotlight[gpu])") from error
    except (ModelUnreadable, RuntimeError) as error:
        raise BakeFailed(f"kernels cannot be compiled: {error}") from error
    ordered = sorted(index.binaries, key=lambda binary: (binary.target, binary.file))
    replace(index, binaries=tuple(ordered)).write(folder / "kernels", {})
    return KernelsRecord(options.architectures, options.dtypes, index.source, index.triton)


def _quality(folder: Path, model: _Source) -> Quality:
    before, after = model.tensors.joined, baked_load(Tensors(folder))
    is_demo = model.found.kind == "demo"
    return measure_change(folder, model.shape, model.pieces, before, after, is_demo=is_demo)


def _manifest(
    folder: Path, model: _Source, written: Written, quantize: Rounding, quality: Quality | None,
    kernels: KernelsRecord | None,
) -> Manifest:
    origin, version = model.record(), metadata.version("pilotlight")
    others = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WEIGHTS)
    files: dict[str, FileRecord] = {path.relative_to(folder).as_posix(): record(path) for path in others}
    return Manifest(
        model=origin, code_version=version,
        fingerprint=fingerprint(written.weights_sha256, origin.config_sha256, quantize, version),
        quantize=quantize, quality=quality, weight_bytes=sum(tensor.bytes for tensor in written.tensors),
        kv_bytes_per_token=2 * model.shape.cache_values_per_token, header_sha256=written.header_sha256,
        kernels=kernels, files={WEIGHTS: written.file, **files}, tensors=written.tensors,
    )
