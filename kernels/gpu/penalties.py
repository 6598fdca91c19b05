"""Penalties, biases and bans of tokens on the GPU, their parameters in device tensors that a CUDA graph reads anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import ceil_div
from kernels.gpu.specification import Constant, ModelShape, Variant

_BLOCK = 2048
_CHUNK = 128

ALWAYS = 2**62
"""An edit's end that no request reaches."""


@dataclass(frozen=True, slots=True)
class AdjustmentTable:
    """What to do to the logits of each row; [rows] but for the last four, on the device.

    Attributes:
        presences, frequencies, repetitions: float32, see `kernels.sampling.penalise`.
        count_rows: int32, the row's own row of `counts`; -1 where nothing is penalised, so few rows need counts.
        counts: [counted rows, vocabulary], int32: 2 x times in the output, + 1 for a token of the prompt.
        edit_counts: int32, how many of the row's edits there are.
        edit_ids: [rows, capacity], int32.
        edit_values: [rows, capacity], float32, added to the logit; minus infinity bans it.
        edit_ends: [rows, capacity], int64: the edit applies while the row's position is below. A bias has `ALWAYS`,
            a ban until `min_tokens` the prompt's length + `min_tokens`.
    """

    presences: Tensor
    frequencies: Tensor
    repetitions: Tensor
    count_rows: Tensor
    counts: Tensor
    edit_counts: Tensor
    edit_ids: Tensor
    edit_values: Tensor
    edit_ends: Tensor

    @classmethod
    def neutral(
        cls, rows: int, vocab_size: int, counted_rows: int, capacity: int, device: torch.device
    ) -> AdjustmentTable:
        """A table that changes no logit."""
        zeros = torch.zeros(rows, dtype=torch.float32, device=device)
        return cls(
            presences=zeros, frequencies=zeros.clone(), repetitions=torch.ones_like(zeros),
            count_rows=torch.full((rows,), -1, dtype=torch.int32, device=device),
            counts=torch.zeros((counted_rows, vocab_size), dtype=torch.int32, device=device),
            edit_counts=torch.zeros(rows, dtype=torch.int32, device=device),
            edit_ids=torch.zeros((rows, capacity), dtype=torch.int32, device=device),
            edit_values=torch.zeros((rows, capacity), dtype=torch.float32, device=device),
            edit_ends=torch.zeros((rows, capacity), dtype=torch.int64, device=device),
        )


def token_counts(prompt: Sequence[int], output: Sequence[int], vocab_size: int) -> Tensor:
    """A row of `AdjustmentTable.counts` for a request that has come so far: [vocab_size], int32, on the CPU."""
    said = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=vocab_size)
    asked = torch.bincount(torch.tensor(prompt, dtype=torch.int64), minlength=vocab_size)
    return (2 * said + (asked > 0)).to(torch.int32)


def adjust(
    launcher: Launcher, logits: Tensor, rows: Tensor, positions: Tensor, table: AdjustmentTable
) -> Tensor:
    """Penalties, then biases and bans.

    Args:
        logits: [lines, vocabulary], floating; lines may lie any distance apart.
        rows: [lines], int64: each line's row of the table.
        positions: [rows], int64: tokens of the request so far.

    Returns:
        [lines, vocabulary], float32; the logits given stay as they are.
    """
    lines, vocabulary = logits.shape
    adjusted = torch.empty((lines, vocabulary), dtype=torch.float32, device=logits.device)
    launcher.launch(
        "penalise_logits", _penalise_constants(), (ceil_div(vocabulary, _BLOCK), lines, 1),
        (logits, logits.stride(0), vocabulary, rows, table.count_rows, table.counts, table.presences,
         table.frequencies, table.repetitions, adjusted),
    )
    launcher.launch(
        "edit_logits", _chunk_constants(), (lines, 1, 1),
        (adjusted, vocabulary, rows, positions, table.edit_counts, table.edit_ids, table.edit_values,
         table.edit_ends, table.edit_ids.shape[1]),
    )
    return adjusted


def record_tokens(launcher: Launcher, tokens: Tensor, rows: Tensor, table: AdjustmentTable) -> None:
    """Count each line's new token, where its row counts.

    Args:
        tokens, rows: [lines], int64.
    """
    lines = len(tokens)
    launcher.launch(
        "record_tokens", _chunk_constants(), (ceil_div(lines, _CHUNK), 1, 1),
        (tokens, rows, table.count_rows, table.counts, table.counts.shape[1], lines),
    )


def variants(shape: ModelShape) -> Iterator[Variant]:
    """What a model asks for; its logits come in its own type or in float32."""
    for dtype in sorted({shape.dtype, "fp32"}):
        yield Variant("penalise_logits", _penalise_constants(), {"T": dtype})
    yield Variant("edit_logits", _chunk_constants())
    yield Variant("record_tokens", _chunk_constants())


def _penalise_constants() -> dict[str, Constant]:
    return {"BLOCK": _BLOCK, "num_warps": 4, "num_stages": 1}


def _chunk_constants() -> dict[str, Constant]:
    return {"CHUNK": _CHUNK, "num_warps": 4, "num_stages": 1}
