"""What a kernel takes, and which variants of it a model needs: data that the compiler and the launchers share.

No Triton here: service imports this, and there Triton is not imported.

A variant is fixed by the kernel's name, the element types of its pointers and its constants. Everything else (sizes,
strides, scales) is a run-time number of one declared type that the compiled code knows nothing about, so no value of it
asks for another compilation. What code would want to know, that a row starts on 16 bytes, it is told in another way:
kernels take lengths in units (heads of `HEAD_DIM`, groups of 16 elements) and multiply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Constant = int | str
"""The value of a compile-time constant; `num_warps` and `num_stages` are constants like any other."""

COMPILER_OPTIONS = ("num_warps", "num_stages")
"""Constants that go to the compiler, not to the kernel."""

POINTER_ALIGNMENT = 16
"""Bytes every pointer argument is a multiple of; torch allocates at 512, and wrappers pass no odd views."""


class UnsupportedShape(ValueError):
    """A tensor's shape, layout or element type that no kernel is written for."""


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One kernel's interface.

    Attributes:
        name: what `Launcher.launch` is asked for.
        function: the `triton.jit` function; its parameters are `arguments`, then `constants`.
        arguments: ordered (name, kind). A kind is a scalar (`i32`, `i64`, `fp32`), a pointer to a fixed type (`*fp32`,
            `*i32`, `*i64`, `*i8`, ...), or a pointer to a type that the variant chooses (`*T`: any capital letter).
        constants: names of the compile-time constants, in order, without `COMPILER_OPTIONS`.
    """

    name: str
    function: Any
    arguments: tuple[tuple[str, str], ...]
    constants: tuple[str, ...]

    def signature(self, types: Mapping[str, str]) -> dict[str, str]:
        """Parameter names to Triton types, as `triton.compiler.ASTSource` wants them.

        Args:
            types: what the letters stand for, e.g. {"T": "bf16"}.
        """
        resolved = {name: resolve(kind, types) for name, kind in self.arguments}
        return resolved | dict.fromkeys(self.constants, "constexpr")

    def attributes(self) -> dict[tuple[int], list[list[str | int]]]:
        """The alignment of every pointer, as `triton.compiler.ASTSource` wants it."""
        return {
            (index,): [["tt.divisibility", POINTER_ALIGNMENT]]
            for index, (_, kind) in enumerate(self.arguments) if kind.startswith("*")
        }


@dataclass(frozen=True, slots=True)
class Variant:
    """One compilation of a kernel.

    Attributes:
        kernel: the kernel's name.
        constants: compile-time constants and compiler options.
        types: what the letters in the kernel's kinds stand for.
    """

    kernel: str
    constants: Mapping[str, Constant]
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model and its service fixes the variants of its kernels.

    Attributes:
        dtype: Triton's name of the weights' and the cache's type: `bf16`, `fp16` or `fp32`.
        head_norm: whether query and key heads are normalised before the rotation.
        windows: which layers the model has: with a sliding window (True), without (False).
        soft_cap: whether attention scores are capped.
        activation: of the gate: `silu`, `gelu` or `gelu_tanh`.
        deterministic: whether the fixed tiles and splits are asked for.
    """

    dtype: str
    heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    page_size: int
    head_norm: bool = False
    windows: tuple[bool, ...] = (False,)
    soft_cap: bool = False
    activation: str = "silu"
    deterministic: bool = False


def resolve(kind: str, types: Mapping[str, str]) -> str:
    """A kind with its letter replaced: `*T` with {"T": "bf16"} is `*bf16`."""
    return f"*{types.get(kind[1:], kind[1:])}" if kind.startswith("*") else kind


def scalars(arguments: tuple[tuple[str, str], ...]) -> list[str]:
    """Names of the arguments that are numbers: Triton must not specialise on their values."""
    return [name for name, kind in arguments if not kind.startswith("*")]
