"""A bake never holds the model: what it reads is mapped, what it writes goes out a window at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

GROWTH = """
import sys
sys.path.insert(0, sys.argv[1])
from contextlib import contextmanager
from pathlib import Path

import engine.chat, engine.text, image.bake

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

@contextmanager
def watch(what, total):
    yield lambda count: seen.append(anonymous())

before, seen = anonymous(), []
image.bake.bake(sys.argv[2], Path(sys.argv[3]), progress=watch)
print(max(seen) - before)
"""
"""Prints by how many bytes the process's own memory grew while it baked."""


def test_a_bake_of_256_mib_takes_less_than_a_tenth_of_it(tmp_path: Path, large: Path) -> None:
    arguments = [str(ROOT), str(large), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *arguments], capture_output=True, text=True, check=True, timeout=100
    )
    assert 0 <= int(done.stdout) < 26 << 20
