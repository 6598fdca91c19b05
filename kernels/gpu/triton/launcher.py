"""Kernels compiled when first asked for, by Triton itself; under `TRITON_INTERPRET=1`, run on the CPU by numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from kernels.gpu.specification import Constant
from kernels.gpu.triton import specifications


class TritonLauncher:
    """The launcher of development and tests; see `kernels.gpu.launcher.Launcher`."""

    def __init__(self) -> None:
        self._specifications = specifications()
        self._variants: set[tuple[object, ...]] = set()

    @property
    def compilations(self) -> int:
        """Distinct variants launched so far, each of which Triton compiled."""
        return len(self._variants)

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        """Compile the variant if it is new, and start it."""
        spec = self._specifications[kernel]
        types = tuple(argument.dtype for argument in arguments if isinstance(argument, Tensor))
        self._variants.add((kernel, types, *sorted(constants.items())))
        if all(grid):
            spec.function[grid](*arguments, **constants)
