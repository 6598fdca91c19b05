"""Paged attention on the GPU: how a step is tiled, when keys are split, and the launches that follow.

Prompt chunks take tall tiles that keep the matrix units busy. Decodes take the shortest tile a matrix product allows,
16 rows, because they wait for memory; where the batch leaves processors idle their keys are split and merged after. A
mixed step is one launch of each, since one tile shape would waste either processors or a long request's time.

Deterministic: a decode's keys are always cut at the same places, every 512 from the first one it sees, whatever else
is in the batch, and every block is computed in the same way and order, whichever tile a query is in. So a decode's
result depends on its own request alone, and a prompt token's does not depend on how the prompt was cut into chunks (a
chunk of one token counts as a decode). Cost: masks on every block of a prompt, and a merge for every decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gpu import layout
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import cache_strides, ceil_div, power_of_two
from kernels.gpu.specification import Constant, ModelShape, Variant
from kernels.gpu.tiles import DecodeTiles, StepTiles, Tiles

_LEAST_KEYS = 256
"""Keys that a split must have to be worth its part of the merge."""

_FIXED_KEYS = 512
"""Keys of a split in deterministic mode."""

_PROGRAMS_PER_PROCESSOR = 2
"""Programs to aim for: as many as keep the memory busy."""

_MERGED_AT_ONCE = 16

_LONGEST_HEAD = 256
"""Elements of a head whose keys and values, read ahead, fit the shared memory of the small cards."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a launch is cut up: at most `queries` queries in `rows` rows a tile, `keys` keys a block."""

    queries: int
    rows: int
    keys: int
    warps: int
    stages: int


def decode_tiling(group: int, head_dim: int, wide: bool) -> Tiling:
    """The tiling of decodes.

    Args:
        group: query heads that share a key head.
        wide: elements are float32.
    """
    # The load of page numbers, which the load of keys waits for, takes stages of its own: five give two buffers.
    return Tiling(1, max(16, power_of_two(group)), _keys(head_dim, wide), 4, 2 if wide else 5)


def chunk_tiling(group: int, head_dim: int, wide: bool) -> Tiling:
    """The tiling of prompt chunks; see `decode_tiling`."""
    rows = max(32 if wide else 64 if head_dim > 128 else 128, power_of_two(group))
    return Tiling(rows // group, rows, _keys(head_dim, wide), 4 if wide else 8, 2)


def _keys(head_dim: int, wide: bool) -> int:
    """Keys a block: as many as leave two blocks of keys and values in 99 KiB, the shared memory of the small cards."""
    if wide:
        return 16
    return 32 if head_dim > 128 else 64


class GpuAttention:
    """A step's attention; see `kernels.operations.Attention`.

    Args:
        tiles: the step's; `DecodeTiles` in a graph.
        page_tables: [rows, pages], int32 or int64, rows contiguous; a tile names its row.
        processors: multiprocessors of the device.
        deterministic: see this file's text.
    """

    def __init__(
        self, launcher: Launcher, tiles: StepTiles | DecodeTiles, page_tables: Tensor, page_size: int,
        processors: int, deterministic: bool,
    ) -> None:
        self._launcher = launcher
        self._tiles = tiles
        self._page_tables = page_tables
        self._page_size = page_size
        self._processors = processors
        self._deterministic = deterministic

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """See `kernels.operations.Attention.attend`.

        Raises:
            UnsupportedShape: the caches' layout is not one of `cache_strides`.
        """
        query = query.contiguous()
        layer = _Layer(query, torch.empty_like(query), key_cache, value_cache, scale, window, soft_cap)
        group, head_dim = query.shape[1] // key_cache.shape[2], query.shape[2]
        wide = query.element_size() > 2
        tiling = chunk_tiling(group, head_dim, wide)
        chunks = self._tiles.chunks(tiling.queries)
        if chunks is not None:
            self._launch(layer, chunks, tiling, splits=0)
        if self._tiles.decodes is not None:
            tiling = decode_tiling(group, head_dim, wide)
            self._launch(layer, self._tiles.decodes, tiling, self._splits(layer, self._tiles.decodes, tiling))
        return layer.out

    def _splits(self, layer: _Layer, tiles: Tiles, tiling: Tiling) -> int:
        """Programs that share a tile's keys; 0 for none, the tile's program writing its result itself."""
        visible = tiles.longest if layer.window is None else min(tiles.longest, layer.window + tiling.keys)
        if self._deterministic:
            return ceil_div(visible + tiling.keys, _FIXED_KEYS)
        programs = len(tiles.table) * layer.key_cache.shape[2]
        wanted = ceil_div(_PROGRAMS_PER_PROCESSOR * self._processors, programs)
        splits = min(wanted, ceil_div(visible, _LEAST_KEYS))
        return splits if splits > 1 else 0

    def _launch(self, layer: _Layer, tiles: Tiles, tiling: Tiling, splits: int) -> None:
        count, (heads, head_dim) = len(tiles.table), layer.query.shape[1:]
        kv_heads = layer.key_cache.shape[2]
        parts = count * tiling.queries * heads * splits
        partial = torch.empty(max(parts * head_dim, 1), dtype=torch.float32, device=layer.query.device)
        lse = torch.empty(parts, dtype=torch.float32, device=layer.query.device) if splits else partial
        least = (_FIXED_KEYS if self._deterministic else _LEAST_KEYS) // tiling.keys
        arguments = (
            layer.query, layer.key_cache, layer.value_cache, layer.out, partial, lse, tiles.table, self._page_tables,
            self._page_tables.stride(0), *cache_strides(layer.key_cache, layer.value_cache), layer.scale,
            layer.soft_cap or 0.0, layer.window or 0, least, heads // kv_heads,
        )
        constants = _paged_constants(
            tiling, head_dim, self._page_size, layer.window is not None,
            layer.soft_cap is not None, splits > 0, self._deterministic,
        )
        self._launcher.launch("paged_attention", constants, (count, kv_heads, max(splits, 1)), arguments)
        if splits:
            grid = (count * tiling.queries, heads, 1)
            merged = (partial, lse, layer.out, tiles.table, splits)
            self._launcher.launch("merge_splits", _merge_constants(tiling.queries, head_dim), grid, merged)


@dataclass(frozen=True, slots=True)
class _Layer:
    query: Tensor
    out: Tensor
    key_cache: Tensor
    value_cache: Tensor
    scale: float
    window: int | None
    soft_cap: float | None


def misfit(shape: ModelShape) -> str | None:
    """What of a model's shape no kernel is written for; None where all is well."""
    if shape.head_dim > _LONGEST_HEAD:
        return f"heads of {shape.head_dim}, more than {_LONGEST_HEAD}"
    return layout.misfit("heads", shape.head_dim)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for, whatever the lengths and the batch; nothing where it does not fit."""
    if misfit(shape) is not None:
        return
    group, wide = shape.heads // shape.kv_heads, shape.dtype == "fp32"
    decode, chunk = (tiling(group, shape.head_dim, wide) for tiling in (decode_tiling, chunk_tiling))
    launches = [(chunk, False), (decode, True)] if shape.deterministic else [
        (chunk, False), (decode, False), (decode, True)
    ]
    for windowed in shape.windows:
        for tiling, split in launches:
            constants = _paged_constants(
                tiling, shape.head_dim, shape.page_size, windowed, shape.soft_cap, split, shape.deterministic
            )
            yield Variant("paged_attention", constants, {"T": shape.dtype, "P": "i64"})
    yield Variant("merge_splits", _merge_constants(decode.queries, shape.head_dim), {"T": shape.dtype})


def _paged_constants(
    tiling: Tiling, head_dim: int, page_size: int, windowed: bool, capped: bool, split: bool, ordered: bool,
) -> dict[str, Constant]:
    return {
        "HEAD_DIM": head_dim, "COLUMNS": power_of_two(head_dim), "ROWS": tiling.rows, "KEYS": tiling.keys,
        "PAGE_SIZE": page_size, "WINDOWED": int(windowed),
        "CAPPED": int(capped), "SPLIT": int(split), "ORDERED": int(ordered), "num_warps": tiling.warps,
        "num_stages": tiling.stages,
    }


def _merge_constants(queries: int, head_dim: int) -> dict[str, Constant]:
    return {
        "HEAD_DIM": head_dim, "COLUMNS": power_of_two(head_dim), "QUERIES": queries, "CHUNK": _MERGED_AT_ONCE,
        "num_warps": 4, "num_stages": 1,
    }
