"""Drawing tokens by parameters that stay on the device, by row: what every sampling kernel is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.sampling import gumbel_noise, keep_likely, noise_keys

GREEDY_TEMPERATURE = 1e-5
"""Below this the most likely token is taken."""


@dataclass(frozen=True, slots=True)
class DrawTable:
    """How the tokens of each row are drawn; each [rows], on the device.

    Attributes:
        temperatures: float32; below 1e-5 the most likely token is taken.
        top_ks: int32; 0 or less considers every token.
        top_ps, min_ps: float32; see `kernels.sampling.keep_likely`.
        seeds, choices, positions: int64, int32, int64; see `kernels.sampling.noise_key`. Position: tokens so far.
    """

    temperatures: Tensor
    top_ks: Tensor
    top_ps: Tensor
    min_ps: Tensor
    seeds: Tensor
    choices: Tensor
    positions: Tensor

    @classmethod
    def greedy(cls, rows: int, device: torch.device) -> DrawTable:
        """A table whose rows all take the most likely token."""
        zeros = torch.zeros(rows, dtype=torch.float32, device=device)
        return cls(
            temperatures=zeros, top_ks=zeros.to(torch.int32), top_ps=torch.ones_like(zeros), min_ps=zeros.clone(),
            seeds=zeros.to(torch.int64), choices=zeros.to(torch.int32), positions=zeros.to(torch.int64),
        )

    def cuts(self) -> tuple[Tensor, ...]:
        """What decides how the unlikely tail is cut."""
        return self.temperatures, self.top_ks, self.top_ps, self.min_ps

    def keys(self) -> tuple[Tensor, ...]:
        """What decides the noise."""
        return self.seeds, self.choices, self.positions


def draw(logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> tuple[Tensor, Tensor]:
    """Draw a token a line.

    Args:
        logits: [lines, vocabulary], float32.
        rows: [lines], int64: each line's row of the table.
        cutting: whether any of the rows may have a top_k, top_p or min_p.

    Returns:
        Tokens [lines], int64, and [lines], bool: whether the logit of the token is a finite number.
    """
    tokens = logits.argmax(-1)
    random = (table.temperatures[rows] >= GREEDY_TEMPERATURE).nonzero().squeeze(-1)
    if len(random) == len(rows):
        tokens = _draw_random(logits, rows, table, cutting)
    elif len(random):
        tokens[random] = _draw_random(logits[random], rows[random], table, cutting)
    return tokens, logits.gather(-1, tokens[:, None]).squeeze(-1).isfinite()


def _draw_random(logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> Tensor:
    vocabulary = logits.shape[-1]
    temperatures, top_ks, top_ps, min_ps = (column[rows] for column in table.cuts())
    scaled = logits / temperatures[:, None]
    if cutting and bool(((top_ks > 0) | (top_ps < 1) | (min_ps > 0)).any()):
        top_ks = torch.where(top_ks > 0, top_ks.clamp(max=vocabulary), vocabulary)
        scaled = keep_likely(scaled, top_ks, top_ps, min_ps)
    keys = noise_keys(table.seeds[rows], table.choices[rows], table.positions[rows])
    return (scaled + gumbel_noise(keys, vocabulary)).argmax(-1)
