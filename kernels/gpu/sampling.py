"""One token a line of logits, every line by its own parameters, without a sort and without asking the host.

The parameters lie in device tensors by row, and `positions` too, so a CUDA graph captured once draws anew each time it
is replayed. What the host must say is only which kernels to launch: whether any row cuts a tail. `kernels.draws.draw`
is what these draws are held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.draws import DrawTable
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import ceil_div
from kernels.gpu.specification import Constant, ModelShape, UnsupportedShape, Variant

_LEVELS = 16

_LINES_AT_ONCE = 64
"""Lines that share scratch memory (12 bytes a token): enough to fill a device, and a batch of 256 needs no gigabyte."""


@dataclass(frozen=True, slots=True)
class DrawTiles:
    """How the work is cut; every number is a power of two.

    Attributes:
        block: tokens a program; a vocabulary of 128k is dealt to 63 programs a line.
        part: tokens of a block that are held against all levels at once.
        parts: blocks whose results are merged at once.
        chunk: candidates looked at at once.
    """

    block: int = 2048
    part: int = 256
    parts: int = 128
    chunk: int = 4096

    def constants(self, kernel: str) -> dict[str, Constant]:
        """Compile-time constants of a kernel of this file."""
        levels: dict[str, Constant] = {"LEVELS": _LEVELS, "PARTS": self.parts}
        own: dict[str, dict[str, Constant]] = {
            "scan_logits": {"BLOCK": self.block},
            "choose_token": {"PARTS": self.parts},
            "measure_levels": {"BLOCK": self.block, "PART": self.part, **levels},
            "collect_likely": {"BLOCK": self.block, **levels},
            "choose_likely": {"CHUNK": self.chunk, "WAYS": 8, **levels},
        }
        return {**own[kernel], "num_warps": 16 if kernel == "choose_likely" else 4, "num_stages": 1}


_TILES = DrawTiles()


def sample(
    launcher: Launcher, logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool, tiles: DrawTiles = _TILES
) -> tuple[Tensor, Tensor]:
    """Draw a token a line.

    Args:
        logits: [lines, vocabulary], floating; each line contiguous, lines any distance apart.
        rows: [lines], int64: each line's row of the tables. Lines that pad a batch name a row kept for them.
        cutting: whether any of the rows may have a top_k, top_p or min_p; with False none may.

    Returns:
        Tokens [lines], int64, and [lines], bool: whether the logit of the token is a finite number. NaN
        anywhere in a line makes that False.

    Raises:
        UnsupportedShape: a line is not contiguous.
    """
    if logits.stride(1) != 1:
        raise UnsupportedShape(f"logits of strides {logits.stride()}: a line must be contiguous")
    lines = len(logits)
    tokens = torch.empty(lines, dtype=torch.int64, device=logits.device)
    sound = torch.empty(lines, dtype=torch.int8, device=logits.device)
    for first in range(0, lines, _LINES_AT_ONCE):
        part = slice(first, first + _LINES_AT_ONCE)
        draw = _Draw(launcher, tiles, table, rows[part], logits[part], tokens[part], sound[part])
        (draw.likely if cutting else draw.any)()
    return tokens, sound.view(torch.bool)


@dataclass(frozen=True, slots=True)
class _Draw:
    """The lines that are drawn at once; `tokens` and `sound` are written."""

    launcher: Launcher
    tiles: DrawTiles
    table: DrawTable
    rows: Tensor
    logits: Tensor
    tokens: Tensor
    sound: Tensor

    def any(self) -> None:
        """From all tokens."""
        bests = self._scan()
        self._launch(
            "choose_token", 0, self.logits, self.logits.stride(0), *bests, bests[0].shape[1], self.tokens, self.sound
        )

    def likely(self) -> None:
        """From all tokens, or the likely ones of rows that ask for it."""
        table, (lines, vocabulary) = self.table, self.logits.shape
        bests = self._scan()
        blocks = bests[0].shape[1]
        counts = self._new(lines, blocks, _LEVELS, dtype=torch.int32)
        levels = counts, torch.empty_like(counts, dtype=torch.float32)
        values = self._new(lines, vocabulary, dtype=torch.float32)
        candidates = values, torch.empty_like(values, dtype=torch.int32)
        source: tuple[Tensor | int, ...] = (
            self.logits, self.logits.stride(0), vocabulary, self.rows, *table.cuts(), *bests, *levels,
        )
        self._launch("measure_levels", blocks, *source)
        self._launch("collect_likely", blocks, *source, *candidates)
        self._launch(
            "choose_likely", 0, self.logits, self.logits.stride(0), *bests, blocks, self.tokens, self.sound,
            vocabulary, self.rows, *table.cuts(), *table.keys(), *levels, *candidates,
        )

    def _scan(self) -> tuple[Tensor, Tensor]:
        lines, vocabulary = self.logits.shape
        blocks = ceil_div(vocabulary, self.tiles.block)
        scores = self._new(lines, blocks, dtype=torch.float32)
        winners = torch.empty_like(scores, dtype=torch.int32)
        self._launch(
            "scan_logits", blocks, self.logits, self.logits.stride(0), vocabulary, self.rows, *self.table.cuts(),
            *self.table.keys(), scores, winners,
        )
        return scores, winners

    def _new(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.logits.device)

    def _launch(self, kernel: str, blocks: int, *arguments: Tensor | int) -> None:
        """A program a block and line, or with `blocks` 0 a line."""
        grid = (blocks, len(self.rows), 1) if blocks else (len(self.rows), 1, 1)
        self.launcher.launch(kernel, self.tiles.constants(kernel), grid, arguments)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for; its logits come in its own type or in float32."""
    kernels = ("scan_logits", "choose_token", "measure_levels", "collect_likely", "choose_likely")
    for kernel in kernels:
        for dtype in sorted({shape.dtype, "fp32"}):
            yield Variant(kernel, _TILES.constants(kernel), {"T": dtype})
