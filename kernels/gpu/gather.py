"""Rows of hidden states and the log probabilities of tokens, taken on the GPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import ceil_div
from kernels.gpu.specification import Constant, ModelShape, UnsupportedShape, Variant

_ROW_BLOCK = 1024
_VOCABULARY_BLOCK = 2048


def gather_rows(launcher: Launcher, source: Tensor, indices: Tensor) -> Tensor:
    """The hidden states that are sampled from, in a batch as large as its CUDA graph wants.

    Args:
        source: [rows, size], each row contiguous, rows any distance apart.
        indices: [lines], int64; a negative one gives a row of zeros.

    Returns:
        [lines, size].

    Raises:
        UnsupportedShape: a row is not contiguous.
    """
    _require_lines(source)
    lines, size = len(indices), source.shape[1]
    out = source.new_empty(lines, size)
    launcher.launch(
        "gather_rows", _row_constants(), (ceil_div(size, _ROW_BLOCK), lines, 1),
        (source, source.stride(0), indices, out, size),
    )
    return out


def token_logprobs(launcher: Launcher, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The natural log probability of one token a line and its rank, 1 for the most likely; the line is read once.

    Args:
        logits: [lines, vocabulary], floating, each line contiguous, lines any distance apart.
        tokens: [lines], int64.

    Returns:
        [lines] float32 and [lines] int64. A line with NaN has NaN for its log probability.

    Raises:
        UnsupportedShape: a line is not contiguous.
    """
    _require_lines(logits)
    lines, vocabulary = logits.shape
    blocks = ceil_div(vocabulary, _VOCABULARY_BLOCK)
    highest = torch.empty((lines, blocks), dtype=torch.float32, device=logits.device)
    found = (highest, torch.empty_like(highest), torch.empty_like(highest, dtype=torch.int32))
    logprobs, ranks = highest.new_empty(lines), torch.empty_like(tokens)
    source = (logits, logits.stride(0), vocabulary, tokens, *found)
    launcher.launch("measure_tokens", _measure_constants(), (blocks, lines, 1), source)
    launcher.launch("merge_tokens", _merge_constants(), (lines, 1, 1), (*source, blocks, logprobs, ranks))
    return logprobs, ranks


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for; its logits come in its own type or in float32."""
    yield Variant("gather_rows", _row_constants(), {"T": shape.dtype})
    for dtype in sorted({shape.dtype, "fp32"}):
        yield Variant("measure_tokens", _measure_constants(), {"T": dtype})
        yield Variant("merge_tokens", _merge_constants(), {"T": dtype})


def _require_lines(source: Tensor) -> None:
    if source.stride(1) != 1:
        raise UnsupportedShape(f"strides {source.stride()}: a line must be contiguous")


def _row_constants() -> dict[str, Constant]:
    return {"BLOCK": _ROW_BLOCK, "num_warps": 4, "num_stages": 1}


def _measure_constants() -> dict[str, Constant]:
    return {"BLOCK": _VOCABULARY_BLOCK, "num_warps": 4, "num_stages": 1}


def _merge_constants() -> dict[str, Constant]:
    return {"PARTS": 128, "num_warps": 4, "num_stages": 1}
