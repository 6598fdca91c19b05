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
    """What was sampled from a step's logits; tensors on the device.

    Attributes:
        tokens: [rows], int64.
        sound: [rows], bool; False where the logits were not numbers, so that the token means nothing.
        logprobs: of the rows in `logprob_rows`, in that order.
    """

    tokens: Tensor
    sound: Tensor
    logprobs: Logprobs | None
    logprob_rows: list[int]

    def to_host(self) -> Sampled:
        """The same in host memory, as soon as the device gets there."""
        logprobs = self.logprobs.to_host() if self.logprobs is not None else None
        return Sampled(_to_host(self.tokens), _to_host(self.sound), logprobs, self.logprob_rows)

    def read(self) -> list[tuple[int, bool, TokenLogprob | None]]:
        """Token id, soundness and log probability by row; of tensors in host memory that have arrived."""
        found: dict[int, TokenLogprob] = {}
        if self.logprobs is not None:
            found = dict(zip(self.logprob_rows, self.logprobs.read(), strict=True))
        rows = zip(self.tokens.tolist(), self.sound.tolist(), strict=True)
        return [(token, sound, found.get(row)) for row, (token, sound) in enumerate(rows)]


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log probabilities of one token a row and of the most likely ones.

    Attributes:
        tokens, values, ranks: [rows].
        top_ids, top_values: [rows, most asked for].
        tops: how many of the most likely tokens to report, by row.
    """

    tokens: Tensor
    values: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_values: Tensor
    tops: list[int]

    def to_host(self) -> Logprobs:
        """The same in host memory, as soon as the device gets there."""
        return Logprobs(
            _to_host(self.tokens), _to_host(self.values), _to_host(self.ranks), _to_host(self.top_ids),
            _to_host(self.top_values), self.tops,
        )

    def read(self) -> list[TokenLogprob]:
        """One a row; of tensors in host memory that have arrived."""
        ids, values = self.top_ids.tolist(), self.top_values.tolist()
        rows = zip(self.tokens.tolist(), self.values.tolist(), self.ranks.tolist(), self.tops, strict=True)
        return [
            TokenLogprob(token, value, rank, tuple(zip(ids[row][:top], values[row][:top], strict=True)))
            for row, (token, value, rank, top) in enumerate(rows)
        ]


def _to_host(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", non_blocking=True)


class Sampler:
    """Chooses one token a row. Holds no request's state, so a preempted request samples on as if nothing had been.

    Args:
        eos_token_ids: kept from being chosen before `min_tokens`.
    """

    def __init__(self, vocab_size: int, eos_token_ids: frozenset[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._eos = sorted(token for token in eos_token_ids if token < vocab_size)
        self._device = device

    def sample(self, logits: Tensor, requests: Sequence[Request]) -> Sampled:
        """One token a request, all of whose tokens the device has; of a penalised one the host has them too.

        Args:
            logits: [requests, vocab], float32.
        """
        chosen = self._choose(self._adjust(logits, requests), requests)
        sound = logits.gather(-1, chosen[:, None]).squeeze(-1).isfinite()
        rows = [row for row, request in enumerate(requests) if request.params.logprobs is not None]
        logprobs = None
        if rows:
            tops = [requests[row].params.logprobs or 0 for row in rows]
            logprobs = token_logprobs(logits, chosen, tops) if len(rows) == len(requests) else token_logprobs(
                logits[rows], chosen[rows], tops
            )
        return Sampled(chosen, sound, logprobs, rows)

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
        return bool(request.params.logit_bias) or _generated(request) < request.params.min_tokens

    def _edit(self, row: Tensor, request: Request) -> None:
        params = request.params
        if params.logit_bias:
            ids = torch.tensor(list(params.logit_bias), device=self._device)
            row.index_add_(0, ids, self._column(list(params.logit_bias.values())))
        if _generated(request) < params.min_tokens:
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
        keys = [noise_key(request.seed, request.choice, request.length) for request in requests]
        noise = gumbel_noise(torch.tensor(keys, dtype=torch.int32, device=self._device), self._vocab_size)
        return (scaled + noise).argmax(-1)


def _generated(request: Request) -> int:
    return request.length - request.prompt_length


def token_logprobs(logits: Tensor, tokens: Tensor, tops: Sequence[int]) -> Logprobs:
    """The log probability of one token a row and of the most likely ones.

    Args:
        logits: [rows, vocab], float32.
        tokens: [rows], int64.
        tops: how many of the most likely tokens to report, by row.
    """
    chosen = logits.gather(-1, tokens[:, None])
    total = logits.logsumexp(-1, keepdim=True)
    ranks = (logits > chosen).sum(-1) + 1
    best = logits.topk(min(max(tops), logits.shape[-1]), dim=-1)
    return Logprobs(tokens, (chosen - total).squeeze(-1), ranks, best.indices, best.values - total, list(tops))
