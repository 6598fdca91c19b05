"""A bake that is killed, fails or runs out of room leaves nothing that looks baked."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.manifest import MANIFEST
from image.bake import bake
from image.folder import BakeFailed, require_room
from image.verify import verify
from tests.disks import small_disk

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, str(ROOT / "pilotlight.py"), "bake"]
HELD = """
import contextlib, signal, sys
import image.progress
import pilotlight

def hold(count):
    print(count, flush=True)
    signal.pause()

image.progress.byte_progress = lambda what, total: contextlib.nullcontext(hold)
pilotlight.main()
"""
"""`pilotlight` that stops in the middle of its work, once it has said how many bytes are done."""
NEEDED = 2_400_000
"""Bytes that the baked demo model takes, and not many more."""


def baked_folders(home: Path) -> list[Path]:
    return [path.parent for path in home.rglob(MANIFEST)]


@contextmanager
def held_bake(source: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A bake that has begun to write the weights, and does not go on."""
    command = [sys.executable, "-c", HELD, "bake", str(source), str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as bake:
        try:
            assert bake.stdout is not None
            assert int(bake.stdout.readline()) > 0
            assert out.with_name(f".{out.name}.baking").is_dir()
            yield bake
            bake.wait(60)
        finally:
            bake.kill()


def test_a_kill_in_the_middle_leaves_nothing_baked_and_the_next_bake_succeeds(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "home" / "out"
    with held_bake(large, out) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert baked_folders(tmp_path) == []
    assert not out.exists()
    bake("demo", out)
    assert verify(out) == []
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupt_cleans_up_after_itself(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "home" / "out"
    with held_bake(large, out) as process:
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
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
