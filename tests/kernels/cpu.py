"""The C++ kernels in each instruction set that this machine can run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernels.cpu.library import Library, Unavailable, UnsupportedVariant, load

VARIANTS = ["avx512", "avx2", "portable", "avx512 in avx2"]


@contextmanager
def using(variant: str) -> Iterator[Library]:
    """The library with a variant in use; afterwards the one it had chosen."""
    library = load()
    if isinstance(library, Unavailable):
        pytest.skip(library.reason)
    chosen = library.variant
    try:
        library.use(variant)
    except UnsupportedVariant:
        pytest.skip(f"this processor cannot run {variant}")
    yield library
    library.use(chosen)
