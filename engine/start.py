"""What a boot begins before anything heavy is imported: reading the weights, and importing torch.

The one waits for storage and the other is mostly code of its own, so they go on beside each other and beside whatever
the caller imports meanwhile.
"""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

from engine.errors import PilotlightError
from engine.imports import ImportWatch
from engine.prefetch import prefetch
from engine.source import find_locally
from engine.timeline import Timeline
from engine.torch_import import import_torch


class Start:
    """A boot under way; make one as early as can be.

    Args:
        model: what will be booted, when that is known already.

    Attributes:
        timeline: where the seconds go, from the start of the process.
    """

    def __init__(self, model: str | None = None, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline()
        self._collects = gc.isenabled()
        gc.disable()  # torch makes a million objects that stay; looking through them for garbage takes 0.2 s of 1.7.
        self._reading: Path | None = None
        self._watch = ImportWatch(self.timeline)
        self._watch.begin()
        if model is not None:
            self._read_ahead(model)
        self._importing = Thread(target=_import_ahead, name="import torch", daemon=True)
        if "torch" not in sys.modules:
            self._importing.start()

    @property
    def importing(self) -> bool:
        """Whether torch is still being imported, which the interpreter could not end cleanly."""
        return self._importing.is_alive()

    def read(self, folder: Path) -> None:
        """Read a model's weights into memory, unless that is under way already."""
        if folder != self._reading:
            self._reading = folder
            prefetch(folder, self.timeline)

    def end(self) -> None:
        """The boot is over: imports are watched no more, and garbage is collected again.

        But not among what is there by now: the first collection would hold up the first token to look through it all.
        """
        self._watch.end()
        if self._collects:
            gc.freeze()
            gc.enable()

    def _read_ahead(self, model: str) -> None:
        with suppress(PilotlightError):  # Said, and better, by whoever needs the model.
            folder = find_locally(model)
            if folder is not None:
                self.read(folder)


def _import_ahead() -> None:
    with suppress(Exception):  # Raised again where torch is needed.
        import_torch()
