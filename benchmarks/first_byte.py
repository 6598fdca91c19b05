"""A command in a fresh process: when the first byte of its output came, and how much memory it took until then."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLING_S = 0.010
"""Between two looks at a process's memory; what the bar on it says."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of a process from outside.

    Attributes:
        started: when it was begun, on the monotonic clock.
        first_byte_s: from then to the first byte on its standard output.
        output: all of its standard output.
        peak_anonymous: bytes of its own memory (`RssAnon` of /proc/PID/status), the most seen before that byte; 0 if
            nobody looked.
    """

    started: float
    first_byte_s: float
    output: str
    peak_anonymous: int


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None, *, memory: bool = False) -> Watched:
    """Run a command to its end.

    Args:
        environment: variables beside those of this process.
        memory: sample its memory, which takes a hundredth of a core from what is measured.

    Raises:
        RuntimeError: it failed or wrote nothing, with the end of what it said.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=os.environ | dict(environment or {}), cwd=Path(__file__).parent.parent,
        )
        try:
            peak = _until_output(process, memory)
            first_byte_s = time.monotonic() - started
            output, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        if process.returncode or not output:
            raise RuntimeError(f"{shlex.join(command)} failed: {errors.read().decode(errors='replace')[-2000:]}")
    return Watched(started, first_byte_s, output.decode(), peak)


def _until_output(process: subprocess.Popen[bytes], memory: bool) -> int:
    """Wait until there is output, or none to come; gives the most memory seen."""
    assert process.stdout is not None
    poll, peak = select.poll(), 0
    poll.register(process.stdout, select.POLLIN)
    while not poll.poll(SAMPLING_S * 1000 if memory else None):
        peak = max(peak, anonymous_bytes(process.pid))
    return max(peak, anonymous_bytes(process.pid)) if memory else 0


def anonymous_bytes(process: int | str) -> int:
    """Memory of a process that no file backs; 0 once it has ended."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
