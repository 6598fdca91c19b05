"""Weights on a CPU: views of the files' own pages, which the kernel holds once for all who read them."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

import torch
from torch import Tensor

from engine.errors import InvalidModel
from engine.residency import resident_fraction
from engine.tensor_file import TensorFile
from engine.timeline import Timeline
from engine.weights import Stored

_MADV_POPULATE_READ = 22
"""Linux 5.14's; Python has no name for it before 3.15."""

_WINDOW = 32 << 20
"""Bytes made present at once: other threads' mappings wait while the kernel is at it."""


class Mapped:
    """See `Placement`. A tensor of the wanted dtype is a view that cannot be written to; others are converted copies.

    Pages are made present by a thread of their own, front to back; a tensor may be read before its turn.

    Args:
        timeline: told how long each file took.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._bytes_of: dict[TensorFile, Tensor] = {}

    def place(self, parts: Sequence[Stored], dtype: torch.dtype) -> Tensor:
        """The parts joined along their first dimension."""
        views = [self._view(part).to(dtype) for part in parts]
        return views[0] if len(views) == 1 else torch.cat(views)

    def finish(self) -> None:
        """Nothing to wait for: a page that is not there yet is read when it is touched."""

    def _view(self, part: Stored) -> Tensor:
        flat = self._whole(part.file)[part.entry.begin : part.entry.end]
        if part.entry.begin % part.dtype.itemsize:  # Legal in the format, but no processor's idea of a number.
            flat = flat.clone()
        return flat.view(part.dtype).view(part.entry.shape)

    def _whole(self, file: TensorFile) -> Tensor:
        if file not in self._bytes_of:
            self._bytes_of[file] = self._map(file)
        return self._bytes_of[file]

    def _map(self, file: TensorFile) -> Tensor:
        try:
            with file.path.open("rb") as opened:
                pages = mmap.mmap(opened.fileno(), file.size, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise InvalidModel(f"{file.path} cannot be mapped: {error}") from None
        whole = torch.frombuffer(pages, dtype=torch.uint8)
        Thread(target=self._populate, args=(file, whole), name=f"weights {file.path.name}", daemon=True).start()
        return whole

    def _populate(self, file: TensorFile, whole: Tensor) -> None:
        """Make the pages present, so that computing does not stop at each for the kernel."""
        start, fraction = self._timeline.now(), 0.0
        with suppress(OSError):  # The file may be gone already, which leaves its pages.
            fraction = resident_fraction(file.path) or 0.0
        # Through ctypes, which releases Python's lock meanwhile; `mmap.madvise` does not.
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for at in range(0, file.size, _WINDOW):
            if advise(whole.data_ptr() + at, min(_WINDOW, file.size - at), _MADV_POPULATE_READ):
                return  # An older kernel: pages come as they are touched.
        end = self._timeline.now()
        rate = file.size / max(end - start, 1e-9) / 1e9
        self._timeline.add(
            f"weights {file.path.name}", start, end, bytes=file.size, gb_per_s=rate, resident_fraction=fraction,
        )
