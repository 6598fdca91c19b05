"""Reading ahead: what is read, with how much memory, and that nothing it meets stops a boot."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest
from typing_extensions import Buffer

from benchmarks.make_model import make_model
from engine.prefetch import READERS, WINDOW, Prefetch, Read, _windows
from engine.residency import medium, resident_fraction


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "135m")


def evict(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(file: Path) -> float:
    fraction = resident_fraction(file)
    assert fraction is not None, "this file system does not tell"
    return fraction


@pytest.fixture
def cold_file(model: Path) -> Path:
    file = model / "model.safetensors"
    evict(file)
    if resident(file) > 0.1:
        pytest.skip("this file system keeps what it is asked to forget")
    return file


def test_what_was_evicted_is_resident_afterwards(cold_file: Path) -> None:
    reads: list[Read] = []
    assert Prefetch(cold_file.parent, reads.append).wait(60)
    [read] = reads
    assert read.file == cold_file
    assert read.bytes == cold_file.stat().st_size
    assert read.resident_fraction < 0.1
    assert resident(cold_file) > 0.99


def test_what_is_resident_is_not_read_again(model: Path) -> None:
    file = model / "model.safetensors"
    file.read_bytes()
    before = bytes_read()
    reads: list[Read] = []
    assert Prefetch(model, reads.append).wait(60)
    assert reads[0].resident_fraction > 0.99
    assert bytes_read() - before < file.stat().st_size / 10


def bytes_read() -> int:
    """What this process asked the system to read, from the page cache or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_no_more_memory_is_taken_than_the_windows(cold_file: Path) -> None:
    code = f"""
import os
from pathlib import Path
from engine.prefetch import Prefetch

def anonymous():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024

def noting(*arguments):
    count = read(*arguments)
    seen.append(anonymous())
    return count

before, seen, read, os.preadv = anonymous(), [], os.preadv, noting
assert Prefetch(Path({str(cold_file.parent)!r}), lambda read: None).wait(60)
print(max(seen) - before)
"""
    grown = int(run(code))
    assert 0 < grown < READERS["local"] * WINDOW + (4 << 20)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_folder_without_whole_weights_stops_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    reads: list[Read] = []
    assert Prefetch(tmp_path, reads.append).wait(60)
    assert not reads


def test_a_stopped_prefetch_leaves_the_rest(cold_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, stopped, read = Event(), Event(), os.preadv

    def held(number: int, buffers: Sequence[Buffer], offset: int, flags: int = 0) -> int:
        count = read(number, buffers, offset, flags)
        if not flags:  # Else it is a probe.
            begun.set()
            assert stopped.wait(60)
        return count

    monkeypatch.setattr(os, "preadv", held)
    reading = Prefetch(cold_file.parent, lambda read: None)
    assert begun.wait(60)
    reading.stop()
    stopped.set()
    assert reading.wait(60)
    assert resident(cold_file) < 0.9


def test_windows_cover_every_byte_once_and_in_order() -> None:
    spans = [(8, 20), (20, 3 * WINDOW), (5 * WINDOW, 5 * WINDOW + 1)]
    windows = list(_windows(spans))
    assert all(0 < end - begin <= WINDOW for begin, end in windows)
    assert windows[0][0] == 8
    assert [begin for begin, _ in windows[1:-1]] == [end for _, end in windows[:-2]]
    assert sum(end - begin for begin, end in windows) == sum(end - begin for begin, end in spans)


def test_nothing_outside_the_standard_library_is_imported() -> None:
    code = "import sys, engine.prefetch; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(run(code).split())
    ours = {"engine", "__main__", "__mp_main__"}
    foreign = {name for name in loaded - ours if name not in sys.stdlib_module_names and "editable" not in name}
    assert foreign <= {"_distutils_hack", "_virtualenv", "distutils-precedence", "sitecustomize", "usercustomize"}


def test_this_files_storage_is_named() -> None:
    assert medium(Path(__file__)) in READERS
    assert medium(Path("/proc/self/status")) == "local"


BESIDE = """
import sys, time
from pathlib import Path
from threading import Event

import engine.boot
from engine.first_token import main
from engine.residency import resident_fraction

weights, begun, locate = Path(sys.argv[1]) / "model.safetensors", Event(), engine.boot.locate

class Late:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            begun.set()
            end = time.monotonic() + 60
            while (share := resident_fraction(weights)) < 0.99 and time.monotonic() < end:
                time.sleep(0.5)
            print(share, file=sys.stderr)

def located(*arguments):
    assert begun.wait(60), "torch is not imported beside the model's other files"
    return locate(*arguments)

sys.meta_path.insert(0, Late())
engine.boot.locate = located
main()
"""
"""Boots to a first token, but does not look at the model's folder before torch is being imported, nor imports torch
before all of the weights are in memory, or never come there. Says how much of them is."""


def test_weights_torch_and_the_other_files_are_read_beside_each_other(cold_file: Path) -> None:
    program = [sys.executable, "-c", BESIDE, str(cold_file.parent), "--kv-memory", str(64 << 20)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr) >= 0.99
