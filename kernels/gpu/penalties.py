"""Penalties on the GPU, counted from the rows' tokens; what they compute is defined in `kernels.penalties`.

The counts are made anew each time and not kept from step to step: that would take 4 bytes for each token of the
vocabulary and every request that may ever be penalised, and to rebuild them after each preemption.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import ceil_div
from kernels.gpu.specification import Constant, ModelShape, Variant
from kernels.penalties import Texts

_CHUNK = 512
_BLOCK = 2048


def penalise_texts(
    launcher: Launcher, logits: Tensor, texts: Texts, presence: Tensor, frequency: Tensor, repetition: Tensor
) -> Tensor:
    """See `kernels.penalties.penalise_texts`."""
    logits = logits.contiguous()
    lines, vocabulary = logits.shape
    counts = torch.zeros((lines, vocabulary), dtype=torch.int32, device=logits.device)
    launcher.launch(
        "count_tokens", _count_constants(), (ceil_div(texts.longest, _CHUNK), lines, 1),
        (texts.tokens, texts.tokens.stride(0), texts.rows, texts.prompt_lengths, texts.lengths, counts, vocabulary),
    )
    penalised = torch.empty_like(logits)
    launcher.launch(
        "penalise_logits", _penalise_constants(), (ceil_div(vocabulary, _BLOCK), lines, 1),
        (logits, counts, vocabulary, presence, frequency, repetition, penalised),
    )
    return penalised


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What any model asks for."""
    yield Variant("count_tokens", _count_constants())
    yield Variant("penalise_logits", _penalise_constants())


def _count_constants() -> dict[str, Constant]:
    return {"CHUNK": _CHUNK, "num_warps": 4, "num_stages": 1}


def _penalise_constants() -> dict[str, Constant]:
    return {"BLOCK": _BLOCK, "num_warps": 4, "num_stages": 1}
