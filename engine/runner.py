"""Computes a step on the device: gather the rows' inputs, run the model, sample where a prompt or token is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain

import torch
from torch import Tensor

from engine.core import DeviceLost, Sample, Samples
from engine.graphs import DecodeGraphs, Recorder, open_recorder
from engine.layers import Batch, Decoder, KVCache
from engine.request import Request, TokenLogprob
from engine.rows import Rows, columns, to_device
from engine.sampler import Drawn, Logprobs, Sampled, Sampler, token_logprobs
from engine.scheduler import Step
from kernels.operations import Attention, Operations

_LOGPROB_ROWS = 256
"""Prompt positions whose logits are held at once: a whole chunk's could be gigabytes."""

_DONE = object()


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
    """Owns the device's state: the model, the cache and the rows.

    Args:
        graph_sizes: batch sizes whose decodes are recorded once the first token is out, rising; when there are any,
            the padding row of `rows` must lead to a page of the cache that no request is ever given.
        recorder: makes the recordings; None takes the device's own.
    """

    def __init__(
        self, model: Decoder, operations: Operations, cache: KVCache, rows: Rows, sampler: Sampler, page_size: int,
        graph_sizes: Sequence[int] = (), recorder: Recorder | None = None,
    ) -> None:
        self._model = model
        self._operations = operations
        self._packing = model.packing() if operations.packs else iter(())
        self._cache = cache
        self._rows = rows
        self._sampler = sampler
        self._page_size = page_size
        self._device = rows.tokens.device
        self._graphs = DecodeGraphs(
            graph_sizes, recorder or open_recorder(self._device), self._decode, rows.padding, self._device
        )

    @property
    def compilations(self) -> int:
        """See `StepRunner.compilations`."""
        return self._operations.compilations

    def release(self, request: Request) -> None:
        """Forget a request that ended or was preempted."""
        self._rows.release(request)

    def defer(self) -> bool:
        """Do a piece of the work put off at boot; False when none is left, or none that is worth a request's wait."""
        with torch.inference_mode():
            return next(self._packing, _DONE) is not _DONE or self._graphs.capture(self._rows.idle)

    def launch(self, step: Step) -> Samples:
        """Start to compute a step's tokens; sample for every request whose tokens are then all computed.

        Raises:
            DeviceLost: the accelerator reported an error it does not recover from.
        """
        with _watching(), torch.inference_mode():
            rows = self._rows.update(step.tokens)
            starts = [request.computed for request in step.tokens]
            if all(count == 1 == request.remaining for request, count in step.tokens.items()):
                replayed = self._graphs.run(rows, starts)
                if replayed is not None:
                    return self._complete(list(step.tokens), *replayed)
            return self._compute(step, rows, starts)

    def _complete(self, requests: list[Request], rows: Tensor, positions: Tensor, drawn: Drawn) -> Samples:
        """What is left of a step after its graph: those who ask for more than a draw from the logits."""
        special = [request for request in requests if request in self._rows.special] if self._rows.special else []
        if not special:
            sampled = Sampled(drawn.tokens, drawn.sound, None, [])
        elif self._sampler.adjusts(special):
            lengths = positions + 1
            sampled = self._sampler.sample(drawn.logits, requests, rows, lengths, self._rows.tokens)
            self._rows.append(rows, lengths, sampled.tokens)
        else:
            sampled = self._sampler.report(drawn, requests)
        return self._results(requests, requests, sampled)

    def _compute(self, step: Step, rows: list[int], starts: list[int]) -> Samples:
        counts = list(step.tokens.values())
        rows_on_device, positions = columns([rows, starts], self._device)
        row_of_token = rows_on_device
        if max(counts) > 1:
            members, positions = columns(_spread(starts, counts), self._device)
            row_of_token = rows_on_device[members]
        page_tables = self._rows.page_tables[rows_on_device]
        attention = self._operations.attention(starts, counts, page_tables, self._page_size)
        sampling = [request for request, count in step.tokens.items() if count == request.remaining]
        outputs = None
        if len(sampling) < len(positions):
            (outputs,) = columns([_ends(step, sampling or list(step.tokens)[-1:])], self._device)
        every = any(request.params.prompt_logprobs is not None and not request.output_length for request in step.tokens)
        hidden = self._forward(row_of_token, positions, attention, None if every else outputs)
        prompt_logprobs = [(request, found.to_host()) for request, found in self._prompt_logprobs(step, hidden)]
        sampled = None
        if sampling:
            if outputs is not None:
                hidden = hidden[outputs] if every else hidden
                row_of_token, positions = row_of_token[outputs], positions[outputs]
            lengths = positions + 1
            logits = self._model.logits(hidden)
            sampled = self._sampler.sample(logits, sampling, row_of_token, lengths, self._rows.tokens)
            self._rows.append(row_of_token, lengths, sampled.tokens)
        return self._results(list(step.tokens), sampling, sampled, prompt_logprobs)

    def _results(
        self, requests: list[Request], sampling: list[Request], sampled: Sampled | None,
        prompt_logprobs: list[tuple[Request, Logprobs]] | None = None,
    ) -> Samples:
        """Send what was sampled to the host."""
        self._rows.appended(sampling)
        on_host = sampled.to_host() if sampled is not None else None
        return _Results(requests, sampling, on_host, prompt_logprobs or [], _arrival(self._device)).samples

    def _decode(self, rows: Tensor, positions: Tensor) -> Drawn:
        """One token a row, as a graph records it: everything depends on the tensors, nothing on the host."""
        numbers = torch.arange(len(rows), device=self._device)
        tiles = torch.stack((rows, numbers, positions, (rows != self._rows.padding).long()), dim=1).to(torch.int32)
        tables, longest = self._rows.page_tables, self._rows.tokens.shape[1]
        attention = self._operations.decode_attention(tiles, tables, self._page_size, longest)
        lengths = positions + 1
        drawn = self._sampler.draw(self._model.logits(self._forward(rows, positions, attention)), rows, lengths)
        self._rows.append(rows, lengths, drawn.tokens)
        return drawn

    def _forward(
        self, rows: Tensor, positions: Tensor, attention: Attention, outputs: Tensor | None = None
    ) -> Tensor:
        """Hidden states of the tokens that the rows have at these positions; see `Decoder.forward`."""
        pages = self._rows.page_tables[rows, positions // self._page_size]
        slots = pages * self._page_size + positions % self._page_size
        batch = Batch(self._rows.tokens[rows, positions], positions, slots, attention)
        return self._model.forward(batch, self._cache, outputs)

    def _prompt_logprobs(self, step: Step, hidden: Tensor) -> Iterator[tuple[Request, Logprobs]]:
        """For requests that ask for it: the log probabilities of the prompt tokens that follow this chunk's."""
        first = 0
        for request, count in step.tokens.items():
            top = request.params.prompt_logprobs
            if top is not None and not request.output_length:
                following = request.tokens[request.computed + 1 : request.computed + count + 1]
                for at in range(0, len(following), _LOGPROB_ROWS):
                    tokens = to_device(following[at : at + _LOGPROB_ROWS], hidden.device)
                    logits = self._model.logits(hidden[first + at : first + at + len(tokens)])
                    yield request, token_logprobs(logits, tokens, [top] * len(tokens))
            first += count


def _spread(starts: Sequence[int], counts: Sequence[int]) -> list[list[int]]:
    """For each token of the step: which request it is of, and its position."""
    members = chain.from_iterable([number] * count for number, count in enumerate(counts))
    positions = chain.from_iterable(
        range(start, start + count) for start, count in zip(starts, counts, strict=True)
    )
    return [list(members), list(positions)]


def _ends(step: Step, requests: Sequence[Request]) -> list[int]:
    """The last token of each request among the step's tokens."""
    ends = dict(zip(step.tokens, accumulate(step.tokens.values()), strict=True))
    return [ends[request] - 1 for request in requests]


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
