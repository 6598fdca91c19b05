"""Finding and opening the C++ kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODULE = "kernels.cpu._kernels"

_POINTER, _INT32, _INT64, _FLOAT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float
_ROWS = [_INT32, _INT32, _INT64, _INT64]


class Rotation(ctypes.Structure):
    """`Rotation` of source/table.h, where every field is explained."""

    _fields_ = (
        *((name, _POINTER) for name in (
            "heads", "query_norm", "key_norm", "cosine", "sine", "positions", "slots", "query", "key_cache",
            "value_cache",
        )),
        *((name, _INT64) for name in (
            "tokens", "token_step", "query_heads", "kv_heads", "head_dim", "page_size", "key_page_step",
            "value_page_step",
        )),
        ("epsilon", _FLOAT), ("dtype", _INT32), ("threads", _INT32),
    )


class Step(ctypes.Structure):
    """`Step` of source/table.h, where every field is explained."""

    _fields_ = (
        *((name, _POINTER) for name in (
            "query", "key_cache", "value_cache", "out", "starts", "counts", "page_tables", "scratch",
        )),
        *((name, _INT64) for name in (
            "requests", "table_step", "page_size", "heads", "kv_heads", "head_dim", "key_page_step",
            "value_page_step", "window",
        )),
        ("scale", _FLOAT), ("soft_cap", _FLOAT), ("dtype", _INT32), ("threads", _INT32),
    )


class UnsupportedVariant(ValueError):
    """This processor cannot run the variant of the kernels, or there is none of that name."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The kernels cannot be used.

    Attributes:
        reason: why, and what to do about it.
    """

    reason: str

    def describe(self) -> str:
        return f"plain torch instead of C++: {self.reason}"


@dataclass(frozen=True, slots=True)
class Library:
    """The opened kernels.

    Attributes:
        handle: for functions that are not bound here.
    """

    path: Path
    handle: ctypes.CDLL
    rms_norm: Callable[..., None]
    add_rms_norm: Callable[..., None]
    silu_multiply: Callable[..., None]
    rotate_and_cache: Callable[..., None]
    attention_scratch: Callable[..., int]
    attend: Callable[..., None]

    @property
    def variant(self) -> str:
        """The instruction set in use."""
        name: bytes = self.handle.pilotlight_variant()
        return name.decode()

    def use(self, variant: str) -> None:
        """Use another instruction set from now on, for tests.

        Raises:
            UnsupportedVariant: it does not run here.
        """
        if self.handle.pilotlight_use(variant.encode()):
            raise UnsupportedVariant(variant)

    def describe(self) -> str:
        return f"C++ with {self.variant}"


def load() -> Library | Unavailable:
    """Open the library that was built with the package, or say why there is none."""
    found = find_spec(MODULE)
    if found is None or found.origin is None:
        return Unavailable("they were not built; install a C++ compiler and install the package again")
    return open_library(Path(found.origin))


def open_library(path: Path) -> Library | Unavailable:
    """Open a library of kernels."""
    try:
        handle = ctypes.CDLL(str(path))
        handle.pilotlight_variant.restype = ctypes.c_char_p
        return Library(
            path,
            handle,
            _bind(handle, "rms_norm", *_ROWS, _POINTER, _POINTER, _POINTER, _FLOAT),
            _bind(handle, "add_rms_norm", *_ROWS, _POINTER, _POINTER, _POINTER, _POINTER, _FLOAT),
            _bind(handle, "silu_multiply", *_ROWS, _POINTER, _POINTER),
            _bind(handle, "rotate_and_cache", ctypes.POINTER(Rotation)),
            _bind(handle, "attention_scratch", ctypes.POINTER(Step), result=_INT64),
            _bind(handle, "attend", ctypes.POINTER(Step)),
        )
    except OSError as error:
        return Unavailable(f"they do not load: {error}")
    except AttributeError as error:
        return Unavailable(f"they are of another version, install the package again: {error}")


def _bind(handle: ctypes.CDLL, name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
    function = handle[f"pilotlight_{name}"]
    function.argtypes, function.restype = arguments, result
    return function
