"""A step's queries cut into tiles, the units of work of the attention kernel.

A tile is four int32: row in the page tables, index of its first query among the step's tokens, that query's position
in its request, number of queries. Requests with one token are decodes and have a tile each; prompt chunks are cut.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

Tile = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles on the device.

    Attributes:
        table: [tiles, 4], int32. A tile of no queries does nothing.
        longest: no query of the tiles sees more keys; only decides how keys are split.
    """

    table: Tensor
    longest: int


class StepTiles:
    """The tiles of one step, made when a layer first asks for them.

    Args:
        starts: tokens of each request already in the cache, before this step.
        counts: tokens of each request in this step; 0 leaves a request out.
    """

    def __init__(self, starts: Sequence[int], counts: Sequence[int], device: torch.device) -> None:
        self._lengths = tuple(starts), tuple(counts)
        self._device = device
        self._chunks: dict[int, Tiles | None] = {}
        self.decodes = _on_device([tile for tile in _requests(*self._lengths) if tile[3] == 1], device)

    def chunks(self, queries: int) -> Tiles | None:
        """Prompt chunks in tiles of at most so many queries; None where there are none.

        The longest come first: what is long and starts last makes the device wait at the end.
        """
        if queries not in self._chunks:
            chunks = (tile for tile in _requests(*self._lengths) if tile[3] > 1)
            tiles = sorted(chain.from_iterable(_cut(chunk, queries) for chunk in chunks), key=_longest_first)
            self._chunks[queries] = _on_device(tiles, self._device)
        return self._chunks[queries]


@dataclass(frozen=True, slots=True)
class DecodeTiles:
    """Tiles of one query each in a table that stays where it is, to be captured in a graph and rewritten for each step.

    Attributes:
        decodes: one tile a row; the row of a request that is not there has no queries.
    """

    decodes: Tiles

    def chunks(self, queries: int) -> None:
        """There are none."""


def _requests(starts: Sequence[int], counts: Sequence[int]) -> Iterator[Tile]:
    first = 0
    for request, (start, count) in enumerate(zip(starts, counts, strict=True)):
        yield request, first, start, count
        first += count


def _cut(chunk: Tile, queries: int) -> Iterator[Tile]:
    request, first, start, count = chunk
    for done in range(0, count, queries):
        yield request, first + done, start + done, min(queries, count - done)


def _longest_first(tile: Tile) -> int:
    return -(tile[2] + tile[3])


def _on_device(tiles: list[Tile], device: torch.device) -> Tiles | None:
    if not tiles:
        return None
    table = torch.frombuffer(array("i", chain.from_iterable(tiles)), dtype=torch.int32).view(-1, 4)
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return Tiles(table, max(start + count for _, _, start, count in tiles))
