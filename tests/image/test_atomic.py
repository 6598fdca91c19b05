"""A bake that is killed, fails or runs out of room leaves nothing that looks baked."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.manifest import MANIFEST
from image.bake import bake
from image.folder import BakeFailed, require_room
from image.verify import verify
from tests.disks import small_disk

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, str(ROOT / "pilotlight.py"), "bake"]
NEEDED = 2_400_000
"""Bytes that the baked demo model takes, and not many more."""


def baked_folders(home: Path) -> list[Path]:
    return [path.parent for path in home.rglob(MANIFEST)]


def wait_for(path: Path, size: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None, "the bake has ended"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_kill_in_the_middle_leaves_nothing_baked_and_the_next_bake_succeeds(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "home" / "out"
    process = subprocess.Popen([*PROGRAM, str(large), str(out)])
    wait_for(out.with_name(".out.baking") / "model.safetensors", 1 << 20, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert baked_folders(tmp_path) == []
    assert not out.exists()
    bake("demo", out)
    assert verify(out) == []
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupt_cleans_up_after_itself(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "home" / "out"
    process = subprocess.Popen([*PROGRAM, str(large), str(out)], stderr=subprocess.DEVNULL)
    wait_for(out.with_name(".out.baking") / "model.safetensors", 1 << 12, process)
    process.send_signal(signal.SIGSTOP)  # Else it might be done before the interrupt comes.
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) != 0
    assert list(out.parent.iterdir()) == []


def test_two_bakes_into_one_place_do_not_mix(tmp_path: Path) -> None:
    draft = tmp_path / ".out.baking"
    draft.mkdir()
    (draft / "half").touch()
    descriptor = os.open(draft, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BakeFailed, match="is being baked by another process"):
        bake("demo", tmp_path / "out")
    assert (draft / "half").exists()
    os.close(descriptor)
    bake("demo", tmp_path / "out")
    assert verify(tmp_path / "out") == []


def test_a_disk_that_is_too_small_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BakeFailed, match=f"no space left: {1 << 60} bytes are to be written, "):
        require_room(tmp_path / "out", 1 << 60)


def test_a_disk_that_fills_up_is_one_clear_line(tmp_path: Path) -> None:
    def forbid_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (NEEDED // 2, NEEDED // 2))

    done = subprocess.run(
        [*PROGRAM, "demo", str(tmp_path / "out")], preexec_fn=forbid_large_files, capture_output=True, text=True,
        timeout=100, check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path / 'out'}: no space left" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1 << 20, 3_300_000])
def test_a_full_disk_is_left_as_it_was(tmp_path: Path, size: int) -> None:
    """The smaller one is too small from the first; the other is filled up by somebody else meanwhile."""
    with small_disk(tmp_path / "disk", size) as disk:
        (disk / "other").write_bytes(bytes(max(0, size - NEEDED - 600_000)))
        with pytest.raises(BakeFailed, match="no space left"):
            bake("demo", disk / "out")
        assert [path.name for path in disk.iterdir()] == ["other"]


def test_a_mount_point_is_refused_by_name(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 24) as disk:
        with pytest.raises(BakeFailed, match="is a mount point"):
            bake("demo", disk)
        bake("demo", disk / "model")
        assert verify(disk / "model") == []
