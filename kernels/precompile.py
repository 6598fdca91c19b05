"""Compile the GPU kernels ahead, on a machine that needs no GPU: `python -m kernels.precompile --arch 80,90 OUT`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from kernels.gpu.index import Index, IndexBroken, IndexMissing, source_hash
from kernels.gpu.specification import Variant
from kernels.gpu.variants import DTYPES, PAGE_SIZE, ModelUnreadable, every_shape, model_shapes, variants_of

if TYPE_CHECKING:
    from kernels.gpu.compiler import Compiled

Task = tuple[Variant, int]
"""A variant and the architecture to compile it for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`. Returns the exit status: 0 done, 1 failed, 2 bad usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.list and (options.out is None or not options.arch):
        parser.error("OUT and --arch are needed, but with --list")
    try:
        variants = _variants(options)
        summary = _list(variants) if options.list else _precompile(variants, options)
    except (ModelUnreadable, ImportError, RuntimeError, OSError) as error:
        print(f"precompile: {error}", file=sys.stderr)
        return 1
    _print(summary, options.json)
    return 0


def precompile(variants: Sequence[Variant], architectures: Sequence[int], folder: Path, jobs: int) -> Index:
    """Compile every variant for every architecture and add it to a folder; one made from other sources is replaced.

    Args:
        architectures: compute capabilities, 90 for 9.0.
        folder: made if need be; it changes when everything is compiled, in one step.
        jobs: processes.

    Returns:
        The folder's index.

    Raises:
        CompilationFailed, NotLaunchable: of `kernels.gpu.compiler`.
    """
    from kernels.gpu.compiler import VERSION

    source = source_hash()
    compiled = list(_compiled(list(product(variants, architectures)), jobs))
    index = _before(folder).joined(Index(VERSION, source, tuple(one.binary for one in compiled)))
    index.write(folder, {one.binary.file: one.cubin for one in compiled})
    return index


def _compiled(tasks: Sequence[Task], jobs: int) -> Iterator[Compiled]:
    from rich.console import Console
    from rich.progress import track

    results = _in_processes(tasks, jobs) if jobs > 1 else map(_compile, tasks)
    yield from track(results, "compiling", total=len(tasks), console=Console(stderr=True))


def _in_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Compiled]:
    """In the order in which they are done; the first failure ends it."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_compile, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _compile(task: Task) -> Compiled:
    from kernels.gpu.compiler import compile_variant

    return compile_variant(*task)


def _before(folder: Path) -> Index:
    """What the folder holds already."""
    try:
        return Index.read(folder)
    except (IndexMissing, IndexBroken):
        return Index("", "", ())


def _variants(options: argparse.Namespace) -> list[Variant]:
    if options.model:
        shapes = [
            shape for folder in options.model for shape in model_shapes(folder, options.dtype, options.page_size)
        ]
    else:
        shapes = list(every_shape(options.dtype or list(DTYPES), options.page_size))
    return variants_of(shapes)


def _list(variants: Sequence[Variant]) -> dict[str, object]:
    return {
        "variants": [
            {"kernel": variant.kernel, "types": dict(variant.types), "constants": dict(variant.constants)}
            for variant in variants
        ]
    }


def _precompile(variants: Sequence[Variant], options: argparse.Namespace) -> dict[str, object]:
    began = time.monotonic()
    index = precompile(variants, options.arch, options.out, options.jobs)
    return {
        "folder": str(options.out), "architectures": sorted({binary.architecture for binary in index.binaries}),
        "compiled": len(variants) * len(options.arch), "binaries": len(index.binaries),
        "bytes": sum({binary.file: binary.size for binary in index.binaries}.values()), "triton": index.triton,
        "seconds": round(time.monotonic() - began, 1),
    }


def _print(summary: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    variants = summary.get("variants")
    if isinstance(variants, list):
        print(*map(_line, variants), sep="\n")
        print(f"{len(variants)} variants", file=sys.stderr)
    else:
        print(*(f"{name}: {value}" for name, value in summary.items()), sep="\n")


def _line(variant: dict[str, dict[str, object]]) -> str:
    settings = variant["types"] | variant["constants"]
    return " ".join([f"{variant['kernel']}", *(f"{name}={value}" for name, value in settings.items())])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kernels.precompile", description="Compile the GPU kernels ahead.")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="folder to add the compiled kernels to")
    parser.add_argument("--arch", type=_architectures, metavar="80,90", help="compute capabilities, times ten")
    parser.add_argument(
        "--model", type=Path, action="append", metavar="FOLDER",
        help="only what this model's config.json asks for; may be repeated",
    )
    parser.add_argument(
        "--dtype", type=_dtypes, metavar=",".join(DTYPES),
        help="types that models compute in; default: with --model what its weights are stored in, else all",
    )
    parser.add_argument("--page-size", type=int, default=PAGE_SIZE, metavar="TOKENS", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: one a processor")
    parser.add_argument("--list", action="store_true", help="print the variants and compile nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _architectures(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and 80 <= int(part) <= 999 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers like 80 or 120, for 8.0 (the oldest that serves) or 12.0")
    return sorted({int(part) for part in parts})


def _dtypes(text: str) -> list[str]:
    names = text.split(",")
    if set(names) - set(DTYPES):
        raise argparse.ArgumentTypeError(f"{text!r}: of {', '.join(DTYPES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
