"""One variant to one cubin, by Triton, for a device that need not be there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.gpu.index import Binary, cubin_file
from kernels.gpu.specification import COMPILER_OPTIONS, KernelSpec, Variant
from kernels.gpu.triton import specifications

VERSION: str = triton.__version__

_WARP = 32
_SIZES = {"u64": 8, "b64": 8, "u32": 4, "s32": 4, "b32": 4, "f32": 4}
_KIND_SIZES = {"i64": 8, "i32": 4, "fp32": 4}


class CompilationFailed(RuntimeError):
    """Triton, or the assembler behind it, did not take a variant."""


class NotLaunchable(RuntimeError):
    """A cubin that wants what our launcher does not give: scratch memory, clusters, or other parameters."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A cubin, what the index says of it, and the assembly it was made from."""

    binary: Binary
    cubin: bytes
    ptx: str


def compile_variant(variant: Variant, architecture: int) -> Compiled:
    """Compile for a compute capability, 90 for 9.0. Triton keeps what it compiled in its own cache.

    Raises:
        CompilationFailed: the compiler refused.
        NotLaunchable: see there.
    """
    spec = _specifications()[variant.kernel]
    try:
        compiled = _compile(spec, variant, architecture)
    except Exception as error:
        raise CompilationFailed(f"{variant} for sm_{architecture}: {error}") from error
    return _described(spec, variant, compiled)


def ptx_parameters(ptx: str) -> list[int]:
    """Bytes of each parameter of the entry in a PTX module (PTX ISA, "Kernel Function Parameters")."""
    entry = re.search(r"\.entry\s+\w+\s*\((.*?)\)", ptx, re.DOTALL)
    assert entry is not None, "a kernel's PTX has an entry"
    return [_SIZES[kind] for kind in re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)", entry[1])]


@cache
def _specifications() -> dict[str, KernelSpec]:
    return specifications()


def _compile(spec: KernelSpec, variant: Variant, architecture: int) -> Any:
    constants = {name: variant.constants[name] for name in spec.constants}
    source = ASTSource(spec.function, spec.signature(variant.types), constants, spec.attributes())
    options = {name: variant.constants[name] for name in COMPILER_OPTIONS}
    with triton.knobs.compilation.scope():
        # Line numbers would put this machine's paths, and a third more bytes, into every cubin.
        triton.knobs.compilation.disable_line_info = True
        return triton.compile(source, target=GPUTarget("cuda", architecture, _WARP), options=options)


def _described(spec: KernelSpec, variant: Variant, compiled: Any) -> Compiled:
    metadata, cubin, ptx = compiled.metadata, compiled.asm["cubin"], compiled.asm["ptx"]
    arguments = [(name, kind) for name, kind in spec.signature(variant.types).items() if kind != "constexpr"]
    _require_launchable(spec.name, metadata)
    target = re.search(r"\.target\s+(\w+)", ptx)
    assert target is not None, "PTX names its target"
    binary = Binary(
        spec.name, dict(variant.types), dict(variant.constants), tuple(arguments),
        _hidden(spec.name, arguments, ptx_parameters(ptx)), metadata.name, target[1], metadata.num_warps,
        metadata.shared, cubin_file(target[1], spec.name, cubin), sha256(cubin).hexdigest(), len(cubin),
    )
    return Compiled(binary, cubin, ptx)


def _require_launchable(kernel: str, metadata: Any) -> None:
    unmet = {
        "global scratch memory": metadata.global_scratch_size, "profiler memory": metadata.profile_scratch_size,
        "clusters": metadata.num_ctas > 1, "a cooperative launch": metadata.launch_cooperative_grid,
        "a dependent launch": metadata.launch_pdl,
    }
    wanted = [what for what, needed in unmet.items() if needed]
    if wanted:
        raise NotLaunchable(f"{kernel} wants {', '.join(wanted)}")


def _hidden(kernel: str, arguments: Sequence[tuple[str, str]], parameters: Sequence[int]) -> int:
    """How many parameters the compiler added behind ours: pointers, null where nothing of theirs is wanted."""
    ours = [8 if kind.startswith("*") else _KIND_SIZES[kind] for _, kind in arguments]
    added = list(parameters[len(ours):])
    if list(parameters[:len(ours)]) != ours or any(size != 8 for size in added):
        raise NotLaunchable(f"{kernel} takes parameters of {list(parameters)} bytes, its signature has {ours}")
    return len(added)
