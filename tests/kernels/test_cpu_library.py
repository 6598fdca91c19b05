"""Finding and opening the C++ kernels, and saying why they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kernels.cpu import library as module
from kernels.cpu.library import Library, Unavailable, UnsupportedVariant, load, open_library


@pytest.fixture
def library() -> Library:
    found = load()
    if isinstance(found, Unavailable):
        pytest.skip(found.reason)
    return found


def test_the_library_says_what_it_runs_on(library: Library) -> None:
    assert library.variant in library.describe()


def test_the_widest_instruction_set_of_the_processor_is_chosen() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("the system does not tell what the processor can do")
    known = flags.read_text().split()
    program = "from kernels.cpu.library import load; print(load().describe())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    said = done.stdout
    if said.startswith("plain torch"):
        pytest.skip(said)
    widest = "avx512" if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= {*known} else "avx2"
    assert f"with {widest if {'avx2', 'fma'} <= {*known} else 'portable'}" in said


def test_a_variant_that_does_not_exist_is_refused(library: Library) -> None:
    chosen = library.variant
    with pytest.raises(UnsupportedVariant, match="mmx"):
        library.use("mmx")
    assert library.variant == chosen


def test_a_library_that_was_not_built_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODULE", "kernels.cpu.not_built")
    found = load()
    assert isinstance(found, Unavailable)
    assert "compiler" in found.describe()


def test_a_file_that_is_no_library_is_said_not_to_load(tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_text("text")
    found = open_library(tmp_path / "broken.so")
    assert isinstance(found, Unavailable)
    assert "broken.so" in found.reason


def test_another_librarys_functions_are_not_taken_for_ours() -> None:
    import ctypes.util

    found = open_library(Path(ctypes.util.find_library("m") or "libm.so.6"))
    assert isinstance(found, Unavailable)
    assert "install the package again" in found.reason
