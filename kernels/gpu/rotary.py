"""Head norms, rotation and cache write in one launch; what they compute is defined in `kernels.rotary`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from kernels.gpu import layout
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import cache_strides, ceil_div, power_of_two
from kernels.gpu.specification import Constant, ModelShape, Variant

_HEADS = 8
"""Heads a program: enough work for a program, and a single token still keeps several processors busy."""


def rotate_and_cache(
    launcher: Launcher, heads: Tensor, norms: tuple[Tensor, Tensor] | None, epsilon: float, cosine: Tensor,
    sine: Tensor, positions: Tensor, slots: Tensor, key_cache: Tensor, value_cache: Tensor,
) -> Tensor:
    """See `kernels.operations.Operations.rotate_and_cache`.

    Everything between the load and the store is float32; the reference rounds in between.

    Raises:
        UnsupportedShape: the caches' layout is not one of `cache_strides`.
    """
    heads = heads.contiguous()
    tokens, all_heads, head_dim = heads.shape
    kv_heads = key_cache.shape[2]
    query = heads.new_empty(tokens, all_heads - 2 * kv_heads, head_dim)
    query_weight, key_weight = norms or (heads, heads)
    arguments = (
        heads, query_weight, key_weight, cosine, sine, positions, slots, query, key_cache, value_cache,
        query.shape[1], kv_heads, *cache_strides(key_cache, value_cache), epsilon,
    )
    constants = _constants(head_dim, key_cache.shape[1], norms is not None)
    launcher.launch("rotate_and_cache", constants, (tokens, ceil_div(all_heads, _HEADS), 1), arguments)
    return query


def misfit(shape: ModelShape) -> str | None:
    """What of a model's shape no kernel is written for; None where all is well."""
    return layout.misfit("heads", shape.head_dim)


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for; nothing where it does not fit."""
    if misfit(shape) is not None:
        return
    yield Variant(
        "rotate_and_cache", _constants(shape.head_dim, shape.page_size, shape.head_norm), {"T": shape.dtype}
    )


def _constants(head_dim: int, page_size: int, norm: bool) -> dict[str, Constant]:
    half = head_dim // 2
    return {
        "HALF": half, "COLUMNS": power_of_two(half), "HEADS": _HEADS, "PAGE_SIZE": page_size, "NORM": int(norm),
        "num_warps": 2, "num_stages": 1,
    }
