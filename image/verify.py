"""Whether every byte of a baked folder is what its manifest says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

from engine.errors import InvalidModel
from engine.manifest import MANIFEST, WEIGHTS, Manifest, damaged_files, read_manifest
from image.progress import Advance, Progress, unseen
from image.writing import read_windows

_THREADS = 8
"""At most: hashing is bound by the processor up to here, by the memory past it."""

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt"}
_SHARD_INDEX = ".safetensors.index.json"

Check = Callable[[], str | None]
"""Looks at a part of the folder and says what is wrong with it."""


def verify(folder: Path, progress: Progress = unseen) -> list[str]:
    """Read all of a baked folder; gives what is wrong with it, a line each."""
    try:
        manifest = read_manifest(folder)
    except InvalidModel as error:
        return [f"{error}"]
    if manifest is None:
        return [f"{folder} is not baked: it holds no {MANIFEST} (pilotlight bake makes a folder that does)"]
    damaged = damaged_files(folder, manifest)
    whole = [name for name in manifest.files if name not in damaged]
    with (
        progress("reading", sum(manifest.files[name].bytes for name in whole)) as advance,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
    ):
        checks = (check for name in whole for check in _checks(folder / name, name, manifest, advance))
        found = list(pool.map(_run, checks))
    return [*damaged.values(), *filter(None, found), *_strangers(folder, manifest)]


def _checks(path: Path, name: str, manifest: Manifest, advance: Advance) -> Iterator[Check]:
    """What to look at in a file: all of it; or each tensor, and the zeros between them. Headers are checked already."""
    if name != WEIGHTS:
        record = manifest.files[name]
        yield partial(_digest_problem, path, f"{path}", 0, record.bytes, record.sha256, advance)
        return
    end = min((tensor.offset for tensor in manifest.tensors), default=0)
    advance(end)
    for tensor in manifest.tensors:
        if tensor.offset > end:
            yield partial(_gap_problem, path, end, tensor.offset, advance)
        end = tensor.offset + tensor.bytes
        yield partial(_digest_problem, path, f"{path}: {tensor.name}", tensor.offset, end, tensor.sha256, advance)


def _run(check: Check) -> str | None:
    return check()


def _digest_problem(path: Path, what: str, begin: int, end: int, expected: str, advance: Advance) -> str | None:
    digest = sha256()
    try:
        for part in read_windows(path, begin, end):
            digest.update(part)
            advance(len(part))
    except OSError as error:
        return f"{what} cannot be read: {error}"
    return None if digest.hexdigest() == expected else f"{what} is damaged: its bytes are not those that were baked"


def _gap_problem(path: Path, begin: int, end: int, advance: Advance) -> str | None:
    try:
        clean = all(not any(part) for part in read_windows(path, begin, end))
    except OSError as error:
        return f"{path} cannot be read: {error}"
    advance(end - begin)
    return None if clean else f"{path} is damaged between its tensors, at bytes {begin} to {end}"


def _strangers(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Weights that the manifest does not know: somebody might load them for those it does."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files and (path.suffix in _WEIGHT_SUFFIXES or name.endswith(_SHARD_INDEX)):
            yield f"{path} is not in {MANIFEST}"
