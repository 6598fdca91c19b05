"""What a test has running runs for as long as it wants, on whatever machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.handler.processes import ROOT

HOOK = Path(__file__).parent / "braked"


class Brake:
    """While it is on, engines of processes with this environment do not boot, and those that have are slow.

    Attributes:
        environment: what such processes find.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "brake"
        self.environment: Mapping[str, str] = {
            "PYTHONPATH": f"{HOOK}{os.pathsep}{ROOT}", "BRAKE": str(self._file),
        }

    def on(self) -> None:
        self._file.touch()

    def off(self) -> None:
        self._file.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """On, until it is let go inside, or at the end."""
        self.on()
        try:
            yield
        finally:
            self.off()
