"""Memory that is freed and taken again is not made anew by the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from engine.allocator import keep_freed_memory
keep_freed_memory()
def step():
    tensors = [torch.empty(4 << 20, dtype=torch.uint8).fill_(1) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_step_takes_the_memory_that_the_one_before_freed() -> None:
    """Without it there are 163,000 faults in most processes; in some the heap happens to lie well."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10_000
