"""Triton's interpreter beside its compiler, in one process.

Triton chooses between them when a function is decorated, so `TRITON_INTERPRET=1` would have to be set before anything
imports it (transformers does) and would keep other tests from compiling. Here the functions change for one launch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from triton import JITFunction
from triton.language import core
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import mangle_type

from kernels.gpu.specification import Constant
from kernels.gpu.triton.launcher import TritonLauncher

_HOLDING_FUNCTIONS = ("triton.language", "kernels.gpu.triton")


class InterpretingLauncher(TritonLauncher):
    """Runs kernels on CPU tensors by numpy. A matrix product in bfloat16 comes out wrong there (Triton 3.6, 3.7)."""

    def __init__(self) -> None:
        super().__init__()
        mangle_type(0)  # Its first call imports modules that insist on finding the compiler's functions.
        self._interpreted: dict[Any, InterpretedFunction[Any]] = {}
        self._specifications = {
            name: replace(spec, function=self._interpret(spec.function))
            for name, spec in self._specifications.items()
        }

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        with self._functions_interpreted():
            super().launch(kernel, constants, grid, arguments)

    def _interpret(self, function: Any) -> InterpretedFunction[Any]:
        if function.fn not in self._interpreted:
            self._interpreted[function.fn] = InterpretedFunction(function.fn)
        return self._interpreted[function.fn]

    @contextmanager
    def _functions_interpreted(self) -> Iterator[None]:
        """Functions that kernels call: those of our files and of Triton's own library."""
        modules = [sys.modules[name] for name in sys.modules if name.startswith(_HOLDING_FUNCTIONS)]
        with _restored([*modules, *(value for value in vars(core).values() if isinstance(value, type))]):
            for module in modules:
                for name, value in list(vars(module).items()):
                    if isinstance(value, JITFunction):
                        setattr(module, name, self._interpret(value))
            yield


@contextmanager
def _restored(places: list[Any]) -> Iterator[None]:
    """Undo every change of attributes: the interpreter leaves some of its own behind."""
    before = [(place, dict(vars(place))) for place in places]
    try:
        yield
    finally:
        for place, attributes in before:
            for name, value in attributes.items():
                if vars(place).get(name) is not value:
                    setattr(place, name, value)
