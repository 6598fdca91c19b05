"""Penalties on what requests have said so far, counted where their tokens lie: on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.sampling import penalise


@dataclass(frozen=True, slots=True)
class Texts:
    """What the requests of some lines have said so far; tensors on the device, int64.

    Attributes:
        tokens: [rows, positions], of all rows; past a text's end they mean nothing.
        rows: [lines], each line's row.
        prompt_lengths, lengths: [lines], tokens of the prompt, and of prompt and output.
        longest: no text has more tokens.
    """

    tokens: Tensor
    rows: Tensor
    prompt_lengths: Tensor
    lengths: Tensor
    longest: int


def penalise_texts(
    logits: Tensor, texts: Texts, presence: Tensor, frequency: Tensor, repetition: Tensor
) -> Tensor:
    """Make tokens that were used less likely, as `kernels.sampling.penalise` does; never waits for the device.

    Args:
        logits: [lines, vocabulary], float32.
        presence, frequency, repetition: [lines], float32.

    Returns:
        [lines, vocabulary], float32.
    """
    tokens = texts.tokens[:, : texts.longest][texts.rows]
    positions = torch.arange(texts.longest, device=logits.device)
    asked = positions < texts.prompt_lengths[:, None]
    said = (positions < texts.lengths[:, None]) & ~asked
    none = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
    prompts, outputs = (none.scatter_add(1, tokens, counted.to(torch.int32)) for counted in (asked, said))
    return penalise(logits, prompts, outputs, presence, frequency, repetition)
