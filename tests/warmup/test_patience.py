"""Long work says how far it has come; quick work says nothing."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from warmup.patience import PATIENCE_S, patient

ROOT = Path(__file__).parents[2]
PROGRAM = """
from itertools import count
from warmup.patience import patient
seconds = count()
with patient("objects", 9, clock=lambda: next(seconds)) as advance:
    for _ in range(9):
        advance(1)
"""


def told(step_s: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged while nine parts take so long each."""
    now = 0.0

    def clock() -> float:
        return now

    with caplog.at_level(logging.INFO, "pilotlight.warmer"), patient("objects", 9, clock) as advance:
        for _ in range(9):
            now += step_s
            advance(1)
    return caplog.messages


def test_quick_work_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert told(PATIENCE_S / 10, caplog) == []


def test_slow_work_is_one_line_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    assert told(PATIENCE_S / 4, caplog) == ["reading 9 objects; 4 are read"]


def test_on_a_terminal_it_is_a_bar() -> None:
    ours, theirs = pty.openpty()
    variables = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=theirs, env=variables)
    os.close(theirs)
    drawn = b"".join(iter(lambda: read(ours), b""))
    assert process.wait() == 0
    os.close(ours)
    assert b"objects" in drawn
    assert b"/9" in drawn


def read(terminal: int) -> bytes:
    """What was drawn; nothing once nobody draws any more, which Linux tells as an error."""
    try:
        return os.read(terminal, 1 << 12)
    except OSError:
        return b""
