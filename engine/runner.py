"""Computes a step on the device: gather the rows' inputs, run the model, sample where a prompt or token is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from engine.core import DeviceLost, Sample, Samples
from engine.layers import Batch, Decoder, KVCache
from engine.request import Request, TokenLogprob
from engine.rows import Rows, to_device
from engine.sampler import Logprobs, Sampled, Sampler, token_logprobs
from engine.scheduler import Step
from kernels.operations import Operations

_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once: a whole chunk's could be gigabytes."""

_DONE = object()


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A step's inputs and, [requests], the row of each of its requests."""

    rows: Tensor
    batch: Batch


@dataclass(frozen=True, slots=True)
class _Results:
    """What a launched step gives, on its way to the host.

    Attributes:
        arrived: waits until the tensors are there.
        sampled: of the requests in `sampling`, in that order.
    """

    requests: list[Request]
    sampling: list[Request]
    sampled: Sampled | None
    prompt_logprobs: list[tuple[Request, Logprobs]]
    arrived: Callable[[], None]

    def samples(self) -> Mapping[Request, Sample]:
        """Wait, and say what each request got."""
        with _watching():
            self.arrived()
        found: dict[Request, tuple[TokenLogprob, ...]] = {}
        for request, logprobs in self.prompt_logprobs:
            found[request] = (*found.get(request, ()), *logprobs.read())
        answers = {request: Sample(None, None, found.get(request, ())) for request in self.requests}
        if self.sampled is not None:
            for request, (token, sound, logprob) in zip(self.sampling, self.sampled.read(), strict=True):
                error = None if sound else "the model's output is not a number"
                answers[request] = Sample(token, logprob, found.get(request, ()), error)
        return answers


class Runner:
    """Owns the device's state: the model, the cache and the rows."""

    def __init__(
        self, model: Decoder, operations: Operations, cache: KVCache, rows: Rows, sampler: Sampler, page_size: int
    ) -> None:
        self._model = model
        self._operations = operations
        self._deferred = model.packing()
        self._cache = cache
        self._rows = rows
        self._sampler = sampler
        self._page_size = page_size

    def release(self, request: Request) -> None:
        """Forget a request that ended or was preempted."""
        self._rows.release(request)

    def defer(self) -> bool:
        """Do a piece of the work put off at boot; False when none is left."""
        return next(self._deferred, _DONE) is not _DONE

    def launch(self, step: Step) -> Samples:
        """Start to compute a step's tokens; sample for every request whose tokens are then all computed.

        Raises:
            DeviceLost: the accelerator reported an error it does not recover from.
        """
        with _watching(), torch.inference_mode():
            return self._compute(step)

    def _compute(self, step: Step) -> Samples:
        inputs = self._gather(step)
        hidden = self._model.forward(inputs.batch, self._cache)
        prompt_logprobs = [(request, found.to_host()) for request, found in self._prompt_logprobs(step, hidden)]
        sampling = [request for request, count in step.tokens.items() if count == request.remaining]
        sampled = self._sample(step, inputs, hidden, sampling).to_host() if sampling else None
        return _Results(list(step.tokens), sampling, sampled, prompt_logprobs, _arrival(hidden.device)).samples

    def _sample(self, step: Step, inputs: _Inputs, hidden: Tensor, sampling: list[Request]) -> Sampled:
        if len(sampling) == len(hidden):
            rows, lengths = inputs.rows, inputs.batch.positions + 1
        else:
            ends = dict(zip(step.tokens, accumulate(step.tokens.values()), strict=True))
            index = {request: number for number, request in enumerate(step.tokens)}
            chosen = [[index[request], ends[request] - 1] for request in sampling]
            members, last = to_device([*zip(*chosen, strict=True)], hidden.device)
            hidden, rows, lengths = hidden[last], inputs.rows[members], inputs.batch.positions[last] + 1
        sampled = self._sampler.sample(self._model.logits(hidden), sampling)
        self._rows.append_sampled(sampling, rows, lengths, sampled.tokens)
        return sampled

    def _gather(self, step: Step) -> _Inputs:
        """The step's inputs, each request's tokens after the other's."""
        starts = [request.computed for request in step.tokens]
        counts = list(step.tokens.values())
        rows, start = to_device([self._rows.update(step.tokens), starts], self._rows.tokens.device)
        if max(counts) == 1:
            row_of_token, positions = rows, start
        else:
            members, positions = to_device(_spread(starts, counts), rows.device)
            row_of_token = rows[members]
        pages = self._rows.page_tables[row_of_token, positions // self._page_size]
        attention = self._operations.attention(starts, counts, self._rows.page_tables[rows], self._page_size)
        slots = pages * self._page_size + positions % self._page_size
        return _Inputs(rows, Batch(self._rows.tokens[row_of_token, positions], positions, slots, attention))

    def _prompt_logprobs(self, step: Step, hidden: Tensor) -> Iterator[tuple[Request, Logprobs]]:
        """For requests that ask for it: the log probabilities of the prompt tokens that follow this chunk's."""
        first = 0
        for request, count in step.tokens.items():
            if request.params.prompt_logprobs is not None and not request.output_length:
                following = request.tokens[request.computed + 1 : request.computed + count + 1]
                for at in range(0, len(following), _LOGPROB_ROWS):
                    tokens = to_device(following[at : at + _LOGPROB_ROWS], hidden.device)
                    logits = self._model.logits(hidden[first + at : first + at + len(tokens)])
                    yield request, token_logprobs(logits, tokens, [request.params.prompt_logprobs] * len(tokens))
            first += count


def _spread(starts: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """For each token of the step: which request it is of, and its position."""
    members = chain.from_iterable([number] * count for number, count in enumerate(counts))
    positions = chain.from_iterable(
        range(start, start + count) for start, count in zip(starts, counts, strict=True)
    )
    return [list(members), list(positions)]


def _arrival(device: torch.device) -> Callable[[], None]:
    """Something to wait for: all that the device was given until now."""
    if device.type == "cpu":
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


@contextmanager
def _watching() -> Iterator[None]:
    """Tell a lost device from other errors."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error).splitlines()[0]) from error
