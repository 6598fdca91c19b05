"""From logits to tokens, every request by its own parameters, in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.request import Request, SamplingParams, TokenLogprob
from engine.rows import columns, to_device
from kernels.draws import DrawTable
from kernels.operations import Operations
from kernels.penalties import Texts


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
        """A copy in host memory, there as soon as the device gets to it, that later steps leave alone."""
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
        """A copy in host memory; see `Sampled.to_host`."""
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
    return tensor.to("cpu", non_blocking=True, copy=True)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens drawn from logits; tensors on the device.

    Attributes:
        logits: [lines, vocab], float32, as the model gave them.
        tokens: [lines], int64.
        sound: [lines], bool; see `Sampled`.
    """

    logits: Tensor
    tokens: Tensor
    sound: Tensor

    def first(self, lines: int) -> Drawn:
        """Without the lines that only fill up a batch."""
        return Drawn(self.logits[:lines], self.tokens[:lines], self.sound[:lines])


class Sampler:
    """Chooses one token a row. Holds no request's state, so a preempted request samples on as if nothing had been.

    Args:
        eos_token_ids: kept from being chosen before `min_tokens`.
        operations: what to draw with.
        draws: how each row's tokens are drawn.
    """

    def __init__(
        self, vocab_size: int, eos_token_ids: frozenset[int], operations: Operations, draws: DrawTable
    ) -> None:
        self._vocab_size = vocab_size
        self._eos = sorted(token for token in eos_token_ids if token < vocab_size)
        self._operations = operations
        self._draws = draws

    def draw(self, logits: Tensor, rows: Tensor, lengths: Tensor, cutting: bool = True) -> Drawn:
        """One token a line from logits as they are, by what the rows' requests ask for; never waits for the device.

        Args:
            logits: [lines, vocab], float32.
            rows, lengths: [lines], int64: each line's row, and how many tokens its request has.
            cutting: whether any of the rows may cut the unlikely tail.
        """
        self._draws.positions[rows] = lengths
        return Drawn(logits, *self._operations.draw(logits, rows, self._draws, cutting))

    def sample(
        self, logits: Tensor, requests: Sequence[Request], rows: Tensor, lengths: Tensor, tokens: Tensor
    ) -> Sampled:
        """One token a request, all of whose tokens the device has; never waits for it.

        Args:
            logits, rows, lengths: of the requests, in this order; see `draw`.
            tokens: [rows, positions], int64, of all rows: what was said so far.
        """
        adjusted = self._adjust(logits, requests, rows, lengths, tokens)
        drawn = self.draw(adjusted, rows, lengths, any(_cuts(request.params) for request in requests))
        if adjusted is not logits:
            sound = logits.gather(-1, drawn.tokens[:, None]).squeeze(-1).isfinite()
            drawn = Drawn(logits, drawn.tokens, sound)
        return self.report(drawn, requests)

    def report(self, drawn: Drawn, requests: Sequence[Request]) -> Sampled:
        """What was drawn for the requests, with the log probabilities that they ask for."""
        logits, chosen = drawn.logits, drawn.tokens
        lines = [line for line, request in enumerate(requests) if request.params.logprobs is not None]
        if not lines:
            return Sampled(chosen, drawn.sound, None, lines)
        tops = [requests[line].params.logprobs or 0 for line in lines]
        if len(lines) < len(requests):
            index = to_device(lines, logits.device)
            logits, chosen = logits[index], chosen[index]
        return Sampled(drawn.tokens, drawn.sound, token_logprobs(logits, chosen, tops), lines)

    @staticmethod
    def adjusts(requests: Iterable[Request]) -> bool:
        """Whether any of the requests' logits are changed before the draw."""
        return any(request.params.penalised or _edits(request) for request in requests)

    def _adjust(
        self, logits: Tensor, requests: Sequence[Request], rows: Tensor, lengths: Tensor, tokens: Tensor
    ) -> Tensor:
        """Penalties, then bias, then no end before `min_tokens`; the logits given stay as they are."""
        penalised = [line for line, request in enumerate(requests) if request.params.penalised]
        edited = [line for line, request in enumerate(requests) if _edits(request)]
        if not penalised and not edited:
            return logits
        logits = logits.clone()
        if penalised:
            index = to_device(penalised, logits.device)
            members = [requests[line] for line in penalised]
            logits.index_copy_(0, index, self._penalise(logits[index], members, rows[index], lengths[index], tokens))
        if edited:
            self._edit(logits, {line: requests[line] for line in edited})
        return logits

    def _edit(self, logits: Tensor, requests: Mapping[int, Request]) -> None:
        """Add biases and ban what may not be chosen yet, in place; requests by line."""
        biases = [
            (line * self._vocab_size + token, value)
            for line, request in requests.items() for token, value in (request.params.logit_bias or {}).items()
        ]
        banned = [
            line * self._vocab_size + token
            for line, request in requests.items() if _generated(request) < request.params.min_tokens
            for token in (*self._eos, *request.params.stop_token_ids)
        ]
        flat, device = logits.view(-1), logits.device
        if biases:
            places, values = zip(*biases, strict=True)
            flat.index_add_(0, to_device(places, device), to_device(values, device, torch.float32))
        if banned:
            flat.index_fill_(0, to_device(banned, device), float("-inf"))

    def _penalise(
        self, logits: Tensor, requests: Sequence[Request], rows: Tensor, lengths: Tensor, tokens: Tensor
    ) -> Tensor:
        device, params = logits.device, [request.params for request in requests]
        (prompt_lengths,) = columns([[request.prompt_length for request in requests]], device)
        strengths = columns([
            [p.presence_penalty for p in params], [p.frequency_penalty for p in params],
            [p.repetition_penalty for p in params],
        ], device, torch.float32)
        longest = max(request.length for request in requests)
        return self._operations.penalise(logits, Texts(tokens, rows, prompt_lengths, lengths, longest), *strengths)


def _cuts(params: SamplingParams) -> bool:
    return not params.greedy and (params.top_k > 0 or params.top_p < 1 or params.min_p > 0)


def _edits(request: Request) -> bool:
    return bool(request.params.logit_bias) or _generated(request) < request.params.min_tokens


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
