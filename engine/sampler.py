"""From logits to tokens, every request by its own parameters, in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.request import Request, TokenLogprob
from kernels.sampling import gumbel_noise, keep_likely, noise_key, penalise


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled row of logits.

    Attributes:
        sound: False when the logits were not numbers, so that the token means nothing.
    """

    token_id: int
    sound: bool
    logprob: TokenLogprob | None


class Sampler:
    """Chooses one token a row. Holds no request's state, so a preempted request samples on as if nothing had been.

    Args:
        eos_token_ids: kept from being chosen before `min_tokens`.
    """

    def __init__(self, vocab_size: int, eos_token_ids: frozenset[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._eos = sorted(token for token in eos_token_ids if token < vocab_size)
        self._device = device

    def sample(self, logits: Tensor, requests: Sequence[Request]) -> list[Sampled]:
        """One token a request.

        Args:
            logits: [requests, vocab], float32.
        """
        chosen = self._choose(self._adjust(logits, requests), requests)
        sound = logits.gather(-1, chosen[:, None]).squeeze(-1).isfinite().tolist()
        tokens = chosen.tolist()
        logprobs = self._logprobs(logits, tokens, requests)
        return [Sampled(token, ok, logprob) for token, ok, logprob in zip(tokens, sound, logprobs, strict=True)]

    def _adjust(self, logits: Tensor, requests: Sequence[Request]) -> Tensor:
        """Penalties, then bias, then no end before `min_tokens`; the logits given stay as they are."""
        penalised = [row for row, request in enumerate(requests) if request.params.penalised]
        edited = [row for row, request in enumerate(requests) if self._edits(request)]
        if not penalised and not edited:
            return logits
        logits = logits.clone()
        if penalised:
            logits[penalised] = self._penalise(logits[penalised], [requests[row] for row in penalised])
        for row in edited:
            self._edit(logits[row], requests[row])
        return logits

    @staticmethod
    def _edits(request: Request) -> bool:
        return bool(request.params.logit_bias) or request.output_length < request.params.min_tokens

    def _edit(self, row: Tensor, request: Request) -> None:
        params = request.params
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=self._device)
            row.index_add_(0, ids, self._column(list(params.logit_bias.values())))
        if request.output_length < params.min_tokens:
            row[[*self._eos, *params.stop_token_ids]] = float("-inf")

    def _penalise(self, logits: Tensor, requests: Sequence[Request]) -> Tensor:
        prompts = torch.stack([self._counts(request.tokens[: request.prompt_length]) for request in requests])
        outputs = torch.stack([self._counts(request.output) for request in requests])
        params = [request.params for request in requests]
        return penalise(
            logits, prompts, outputs,
            self._column([p.presence_penalty for p in params]),
            self._column([p.frequency_penalty for p in params]),
            self._column([p.repetition_penalty for p in params]),
        )

    def _counts(self, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor(tokens, dtype=torch.int64, device=self._device)
        return torch.bincount(ids, minlength=self._vocab_size)

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _choose(self, logits: Tensor, requests: Sequence[Request]) -> Tensor:
        random = [row for row, request in enumerate(requests) if not request.params.greedy]
        if not random:
            return logits.argmax(-1)
        drawn = self._draw(logits[random], [requests[row] for row in random])
        if len(random) == len(requests):
            return drawn
        chosen = logits.argmax(-1)
        chosen[random] = drawn
        return chosen

    def _draw(self, logits: Tensor, requests: Sequence[Request]) -> Tensor:
        scaled = logits / self._column([request.params.temperature for request in requests])[:, None]
        params = [request.params for request in requests]
        if any(p.top_p < 1 or p.top_k > 0 or p.min_p > 0 for p in params):
            top_k = [min(p.top_k, self._vocab_size) if p.top_k > 0 else self._vocab_size for p in params]
            scaled = keep_likely(
                scaled, torch.tensor(top_k, device=self._device),
                self._column([p.top_p for p in params]), self._column([p.min_p for p in params]),
            )
        keys = [noise_key(request.seed, request.choice, len(request.tokens)) for request in requests]
        noise = gumbel_noise(torch.tensor(keys, dtype=torch.int32, device=self._device), self._vocab_size)
        return (scaled + noise).argmax(-1)

    def _logprobs(
        self, logits: Tensor, tokens: Sequence[int], requests: Sequence[Request]
    ) -> list[TokenLogprob | None]:
        found: list[TokenLogprob | None] = [None] * len(requests)
        rows = [row for row, request in enumerate(requests) if request.params.logprobs is not None]
        if rows:
            tops = [requests[row].params.logprobs or 0 for row in rows]
            measured = token_logprobs(logits[rows], [tokens[row] for row in rows], tops)
            for row, logprob in zip(rows, measured, strict=True):
                found[row] = logprob
        return found


def token_logprobs(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """The log probability of one token a row and of the most likely ones.

    Args:
        logits: [rows, vocab], float32.
        tops: how many of the most likely tokens to report, by row.
    """
    chosen = logits.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])
    total = logits.logsumexp(-1, keepdim=True)
    ranks = ((logits > chosen).sum(-1) + 1).tolist()
    best = logits.topk(min(max(tops), logits.shape[-1]), dim=-1)
    values, ids = (best.values - total).tolist(), best.indices.tolist()
    own = (chosen - total).squeeze(-1).tolist()
    return [
        TokenLogprob(token, own[row], ranks[row], tuple(zip(ids[row][:top], values[row][:top], strict=True)))
        for row, (token, top) in enumerate(zip(tokens, tops, strict=True))
    ]
