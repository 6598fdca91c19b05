"""Which kernel variants the engine can ask for: of any model it may be given, or of one.

What a shape needs is said by the files that launch, from the functions that choose their constants; here are only the
shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from kernels.gpu import activation, attention, gather, linear, norm, penalties, rotary, sampling
from kernels.gpu.specification import ModelShape, UnsupportedShape, Variant

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
"""Names as in `config.json`, and Triton's."""

PAGE_SIZE = 16
"""Tokens a page, the engine's default."""

_HEAD_DIMS = (64, 80, 96, 128, 256)
_GROUPS = (1, 2, 3, 4, 5, 6, 7, 8)
_HIDDEN_SIZES = (512, 1024, 2048, 4096, 8192, 16384)
"""One for each power of two that rows of up to 16,384 elements are rounded up to."""

_LAUNCHING = (activation, attention, gather, linear, norm, penalties, rotary, sampling)


class ModelUnreadable(ValueError):
    """A model folder whose `config.json` is missing, or does not say what shape the model is of."""


def every_shape(dtypes: Sequence[str], page_size: int) -> Iterator[ModelShape]:
    """Shapes that need, together, every variant of dense decoders without capped scores.

    Args:
        dtypes: keys of `DTYPES`.
        page_size: tokens a page.
    """
    for dtype, head_dim, group in product(dtypes, _HEAD_DIMS, _GROUPS):
        yield from _in_every_mode(DTYPES[dtype], 8 * group, 8, head_dim, _HIDDEN_SIZES[0], page_size)
    for dtype, hidden_size in product(dtypes, _HIDDEN_SIZES):
        yield from _in_every_mode(DTYPES[dtype], 8, 8, _HEAD_DIMS[0], hidden_size, page_size)


def model_shapes(folder: Path, dtypes: Sequence[str] | None, page_size: int) -> Iterator[ModelShape]:
    """The shapes of one model; what `config.json` does not plainly say is taken both ways.

    Args:
        folder: holds `config.json`.
        dtypes: keys of `DTYPES`; None is the one the weights are stored in.
        page_size: tokens a page.

    Raises:
        ModelUnreadable: see there.
    """
    config = _config(folder)
    stored = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    try:
        heads, hidden_size = config["num_attention_heads"], config["hidden_size"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or hidden_size // heads
        for dtype in dtypes or [stored]:
            yield from _in_every_mode(
                DTYPES[dtype], heads, kv_heads, head_dim, hidden_size, page_size,
                windows=(False, True) if config.get("sliding_window") else (False,),
                soft_cap=bool(config.get("attn_logit_softcapping")),
            )
    except (KeyError, TypeError, ZeroDivisionError, AttributeError, UnsupportedShape) as error:
        raise ModelUnreadable(f"{folder / 'config.json'} does not describe a decoder we know: {error!r}") from error


def variants_of(shapes: Iterable[ModelShape]) -> list[Variant]:
    """What shapes need, each variant once, in a fixed order."""
    found = {
        variant_key(variant): variant
        for shape in shapes for file in _LAUNCHING for variant in file.variants(shape)
    }
    return [found[key] for key in sorted(found)]


def variant_key(variant: Variant) -> tuple[str, str, str]:
    """Equal for equal variants, and in order."""
    return variant.kernel, str(sorted(variant.types.items())), str(sorted(variant.constants.items()))


def _in_every_mode(
    dtype: str, heads: int, kv_heads: int, head_dim: int, hidden_size: int, page_size: int,
    windows: tuple[bool, ...] = (False, True), soft_cap: bool = False,
) -> Iterator[ModelShape]:
    """A shape with and without normalised heads, deterministic and not."""
    for head_norm, deterministic in product((False, True), repeat=2):
        yield ModelShape(
            dtype, heads, kv_heads, head_dim, hidden_size, 4 * hidden_size, page_size,
            head_norm, windows, soft_cap, deterministic=deterministic,
        )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnreadable(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelUnreadable(f"{path} is no JSON object")
    return config
