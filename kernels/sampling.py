"""Choosing tokens: noise without state, penalties, and cutting the unlikely tail."""

from __future__ import annotations

import torch
from torch import Tensor

_WINDOW = 1024
"""Most likely tokens looked at before a whole vocabulary is sorted; real distributions rarely need more."""

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = 0xFFFFFFFFFFFFFFFF


def _mix64(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK64
    return x ^ (x >> 31)


def noise_key(seed: int, choice: int, position: int) -> tuple[int, int]:
    """Two signed 32-bit words that stand for (seed, choice, position) in `gumbel_noise`."""
    key = 0
    for part in (seed, choice, position):
        key = _mix64((key + part + _GOLDEN) & _MASK64)
    return _signed32(key >> 32), _signed32(key & 0xFFFFFFFF)


def noise_keys(seeds: Tensor, choices: Tensor, positions: Tensor) -> Tensor:
    """`noise_key` of many; each [rows], whole numbers, seeds as signed 64-bit words. Returns [rows, 2], int32."""
    key = torch.zeros_like(seeds)
    for part in (seeds, choices, positions):
        key = _mix64_tensor(key + part + _signed64(_GOLDEN))
    return torch.stack((key >> 32, (key << 32) >> 32), dim=-1).to(torch.int32)


def _mix64_tensor(x: Tensor) -> Tensor:
    """`_mix64` of int64 words; sums and products wrap modulo 2^64."""
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ ((x >> bits) & ((1 << (64 - bits)) - 1))) * _signed64(factor)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _signed64(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _signed32(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int32: torch's own carries the sign along."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def _mix32(x: Tensor) -> Tensor:
    """The `lowbias32` integer hash (Wellons 2018, hash-prospector); products wrap modulo 2^32."""
    x = (x ^ _shift_right(x, 16)) * 0x7FEB352D
    x = (x ^ _shift_right(x, 15)) * _signed32(0x846CA68B)
    return x ^ _shift_right(x, 16)


def gumbel_noise(keys: Tensor, vocab_size: int) -> Tensor:
    """Gumbel noise that depends on nothing but the key and the token's id.

    Adding it to logits and taking the largest draws from their softmax (Gumbel 1954; Maddison et al. 2014).

    Args:
        keys: [rows, 2], int32, from `noise_key`.

    Returns:
        [rows, vocab_size], float32.
    """
    ids = torch.arange(vocab_size, dtype=torch.int32, device=keys.device)
    bits = _mix32(_mix32(ids + keys[:, :1]) ^ keys[:, 1:])
    # A uniform number close to 0 keeps its precision in float32, so the largest noise is the finest resolved.
    # One that rounds to 1 would make the noise infinite, and a token that alone was kept could then lose.
    uniform = ((_shift_right(bits, 1).float() + 0.5) * 2.0**-31).clamp_(max=1 - 2.0**-24)
    return -(-torch.log1p(-uniform)).log()


def penalise(
    logits: Tensor, prompt_counts: Tensor, output_counts: Tensor, presence: Tensor, frequency: Tensor,
    repetition: Tensor,
) -> Tensor:
    """Make tokens that were used less likely, or more with negative penalties.

    Repetition divides positive logits and multiplies negative ones of every token in prompt or output (Keskar et al.
    2019, arXiv:1909.05858); presence and frequency subtract for tokens of the output alone (OpenAI's definition).

    Args:
        logits: [rows, vocab], float32.
        prompt_counts, output_counts: [rows, vocab], how often each token occurs.
        presence, frequency, repetition: [rows].
    """
    seen = (prompt_counts + output_counts) > 0
    factor = torch.where(seen, repetition[:, None], 1.0)
    logits = torch.where(logits > 0, logits / factor, logits * factor)
    return logits - frequency[:, None] * output_counts - presence[:, None] * (output_counts > 0)


def keep_likely(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Set the logits of unlikely tokens to minus infinity: min_p, then top_k, then top_p of what is left.

    Args:
        logits: [rows, vocab], float32, temperature applied.
        top_k: [rows], int64, from 1 to the vocabulary's size (which keeps all).
        top_p: [rows], above 0; the smallest set of most likely tokens whose probability reaches it stays.
        min_p: [rows]; tokens less likely than this share of the most likely one go.
    """
    best = logits.amax(-1, keepdim=True)
    logits = logits.masked_fill(logits < best + min_p[:, None].log(), float("-inf"))
    threshold, decided = _threshold(logits, top_k, top_p, min(_WINDOW, logits.shape[-1]))
    if not bool(decided.all()):
        threshold = _threshold(logits, top_k, top_p, logits.shape[-1])[0]
    return logits.masked_fill(logits < threshold[:, None], float("-inf"))


def _threshold(logits: Tensor, top_k: Tensor, top_p: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The smallest logit that stays in each row, and whether `window` tokens were enough to know it."""
    values = logits.topk(window).values
    vocabulary = logits.shape[-1]
    ranks = torch.arange(window, device=logits.device)
    kept_by_k = ranks < top_k[:, None]
    within = values.masked_fill(~kept_by_k, float("-inf"))
    # Without a top_k the whole row's mass counts, of which the window may hold only a part.
    whole = torch.where(top_k < vocabulary, within.logsumexp(-1), logits.logsumexp(-1))
    probabilities = (within - whole[:, None]).exp()
    mass_before = probabilities.cumsum(-1) - probabilities
    kept = kept_by_k & ((mass_before < top_p[:, None]) | (top_p[:, None] >= 1))
    kept[:, 0] = True
    last = kept.sum(-1) - 1
    everything = (top_k >= vocabulary) & (top_p >= 1)
    decided = everything | (top_k <= window) | ((top_k >= vocabulary) & (last + 1 < window)) | (window == vocabulary)
    smallest = values.gather(-1, last[:, None]).squeeze(-1)
    return torch.where(everything, float("-inf"), smallest), decided
