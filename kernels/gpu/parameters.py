"""Kernel arguments laid out in memory as `cuLaunchKernel` reads them."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

_CODES = {"i8": "b7x", "i16": "h6x", "i32": "i4x", "i64": "q", "fp32": "f4x", "fp64": "d"}
_POINTER = "Q"
_SLOT = 8
"""Bytes that each parameter's slot takes; none is longer, and all are aligned to it."""


class ArgumentUnfit(TypeError):
    """An argument that is not a value of its parameter's type."""


class Parameters:
    """One kernel's parameters, written in place before every launch; the driver has copied them when it returns.

    Args:
        kernel: for messages.
        arguments: (name, Triton type) of each argument.
        hidden: how many null pointers follow them.
    """

    def __init__(self, kernel: str, arguments: Sequence[tuple[str, str]], hidden: int) -> None:
        self._kernel = kernel
        self._arguments = tuple(arguments)
        self._layout = struct.Struct("=" + "".join(_code(kernel, kind) for _, kind in arguments))
        count = len(arguments) + hidden
        self._slots = ctypes.create_string_buffer(max(count, 1) * _SLOT)
        first = ctypes.addressof(self._slots)
        self._pointers = (ctypes.c_void_p * max(count, 1))(*(first + _SLOT * place for place in range(count)))

    @property
    def address(self) -> int:
        """Of an array of one pointer a parameter, each to its value: the driver's `kernelParams`."""
        return ctypes.addressof(self._pointers)

    def write(self, values: Sequence[int | float]) -> None:
        """Take the values of the next launch, addresses for pointers.

        Raises:
            ArgumentUnfit: too many or too few, or one is out of its type's range.
        """
        try:
            self._layout.pack_into(self._slots, 0, *values)
        except (struct.error, OverflowError) as error:
            raise ArgumentUnfit(self._complaint(values)) from error

    def _complaint(self, values: Sequence[int | float]) -> str:
        if len(values) != len(self._arguments):
            return f"{self._kernel} takes {len(self._arguments)} arguments, not {len(values)}"
        unfit = [
            f"{name} = {value!r} is no {kind}"
            for (name, kind), value in zip(self._arguments, values, strict=True) if not _fits(self._kernel, kind, value)
        ]
        return f"{self._kernel}: {', '.join(unfit)}"


def _code(kernel: str, kind: str) -> str:
    code = _POINTER if kind.startswith("*") else _CODES.get(kind)
    if code is None:
        raise ArgumentUnfit(f"{kernel}: parameters of type {kind} cannot be passed")
    return code


def _fits(kernel: str, kind: str, value: float) -> bool:
    try:
        struct.pack("=" + _code(kernel, kind), value)
    except (struct.error, OverflowError):
        return False
    return True
