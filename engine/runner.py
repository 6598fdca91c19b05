"""Computes a step on the device: gather the rows' inputs, run the model, sample where a prompt or token is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor

from engine.core import DeviceLost, Sample
from engine.layers import Batch, Decoder, KVCache
from engine.request import Request, TokenLogprob
from engine.rows import Rows
from engine.sampler import Sampler, token_logprobs
from engine.scheduler import Step
from kernels.attention import AttentionBatch

_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once: a whole chunk's could be gigabytes."""


class Runner:
    """Owns the device's state: the model, the cache and the rows."""

    def __init__(self, model: Decoder, cache: KVCache, rows: Rows, sampler: Sampler, page_size: int) -> None:
        self._model = model
        self._cache = cache
        self._rows = rows
        self._sampler = sampler
        self._page_size = page_size

    def release(self, request: Request) -> None:
        """Forget a request that ended or was preempted."""
        self._rows.release(request)

    def step(self, step: Step) -> Mapping[Request, Sample]:
        """Compute a step's tokens; sample for every request whose known tokens are then all computed.

        Raises:
            DeviceLost: the accelerator reported an error it does not recover from.
        """
        try:
            with torch.inference_mode():
                return self._compute(step)
        except torch.AcceleratorError as error:
            raise DeviceLost(str(error).splitlines()[0]) from error

    def _compute(self, step: Step) -> dict[Request, Sample]:
        hidden = self._model.forward(self._gather(step), self._cache)
        prompt_logprobs = dict(self._prompt_logprobs(step, hidden))
        ends = dict(zip(step.tokens, accumulate(step.tokens.values()), strict=True))
        sampling = [request for request, count in step.tokens.items() if count == request.remaining]
        samples = {request: Sample(None, None, prompt_logprobs.get(request, ())) for request in step.tokens}
        if not sampling:
            return samples
        logits = self._model.logits(hidden[[ends[request] - 1 for request in sampling]])
        for request, sampled in zip(sampling, self._sampler.sample(logits, sampling), strict=True):
            error = None if sampled.sound else "the model's output is not a number"
            samples[request] = Sample(sampled.token_id, sampled.logprob, prompt_logprobs.get(request, ()), error)
        return samples

    def _gather(self, step: Step) -> Batch:
        """The step's inputs, each request's tokens after the other's."""
        device = self._rows.tokens.device
        rows = torch.tensor([self._rows.update(request) for request in step.tokens], device=device)
        starts = [request.computed for request in step.tokens]
        counts = list(step.tokens.values())
        positions = torch.cat([
            torch.arange(start, start + count, device=device) for start, count in zip(starts, counts, strict=True)
        ]) if max(counts) > 1 else torch.tensor(starts, device=device)
        row_of_token = rows.repeat_interleave(torch.tensor(counts, device=device))
        pages = self._rows.page_tables[row_of_token, positions // self._page_size]
        return Batch(
            self._rows.tokens[row_of_token, positions],
            positions,
            pages * self._page_size + positions % self._page_size,
            AttentionBatch(starts, counts, self._rows.page_tables[rows], self._page_size),
        )

    def _prompt_logprobs(self, step: Step, hidden: Tensor) -> Iterator[tuple[Request, tuple[TokenLogprob, ...]]]:
        """For requests that ask for it: the log probabilities of the prompt tokens that follow this chunk's."""
        first = 0
        for request, count in step.tokens.items():
            if request.params.prompt_logprobs is not None and not request.output_length:
                following = request.tokens[request.computed + 1 : request.computed + count + 1]
                yield request, tuple(self._chunk_logprobs(hidden[first : first + len(following)], following, request))
            first += count

    def _chunk_logprobs(self, hidden: Tensor, following: list[int], request: Request) -> Iterator[TokenLogprob]:
        top = request.params.prompt_logprobs or 0
        for first in range(0, len(following), _LOGPROB_ROWS):
            tokens = following[first : first + _LOGPROB_ROWS]
            logits = self._model.logits(hidden[first : first + len(tokens)])
            yield from token_logprobs(logits, tokens, [top] * len(tokens))
