"""The device's record of running requests: a permanent row each, from first step to end or preemption."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from engine.lazy_zeros import lazy_zeros
from engine.request import Request, SamplingParams
from kernels.draws import DrawTable


class Rows:
    """Token ids, page tables and how tokens are drawn, by row.

    A request's tokens and pages only ever grow at their end, so each step sends what is new and nothing else; sampled
    tokens are written by the device itself. One row more than asked for is nobody's: it fills up batches.

    Args:
        padding_page: a page that no request is ever given, where the padding row's tokens go.

    Attributes:
        tokens: [rows + 1, max_model_len], int64.
        page_tables: [rows + 1, pages a context fills], int64.
        draws: of each row.
        padding: the row that is nobody's.
        special: requests with a row that ask for more than a draw from the model's logits.
    """

    def __init__(
        self, rows: int, max_model_len: int, page_size: int, device: torch.device, padding_page: int = 0
    ) -> None:
        # Two at least: a padding row reads its first token and writes its second.
        self.tokens = lazy_zeros((rows + 1, max(max_model_len, 2)), torch.int64, device)
        self.page_tables = lazy_zeros((rows + 1, -(-max_model_len // page_size)), torch.int64, device)
        self.page_tables[rows] = padding_page
        self.draws = DrawTable.greedy(rows + 1, device)
        self.padding = rows
        self.special: set[Request] = set()
        self._free = list(range(rows - 1, -1, -1))
        self._row_of: dict[Request, int] = {}
        self._known: dict[Request, tuple[int, int]] = {}

    @property
    def idle(self) -> bool:
        """Whether no request has a row."""
        return not self._row_of

    def update(self, requests: Collection[Request]) -> list[int]:
        """Bring the requests' rows up to date, giving them one at first; returns their rows."""
        self._admit([request for request in requests if request not in self._row_of])
        tokens = _Growth(self.tokens)
        pages = _Growth(self.page_tables)
        rows = [self._row_of[request] for request in requests]
        for request, row in zip(requests, rows, strict=True):
            known_tokens, known_pages = self._known[request]
            tokens.add(row, known_tokens, request.tokens)
            pages.add(row, known_pages, request.pages)
            self._known[request] = (max(known_tokens, len(request.tokens)), len(request.pages))
        tokens.write()
        pages.write()
        return rows

    def append(self, rows: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """Write one token a row at its end, without the host's knowing it.

        Args:
            rows, lengths: [lines], int64: each one's row, and number of tokens before this one.
            tokens: [lines], int64.
        """
        self.tokens[rows, lengths] = tokens

    def appended(self, requests: Iterable[Request]) -> None:
        """Take note that `append` wrote a token for each of these."""
        for request in requests:
            tokens, pages = self._known[request]
            self._known[request] = (tokens + 1, pages)

    def release(self, request: Request) -> None:
        """Take back a request's row; one that has none is no error."""
        row = self._row_of.pop(request, None)
        if row is not None:
            del self._known[request]
            self.special.discard(request)
            self._free.append(row)

    def _admit(self, requests: Sequence[Request]) -> None:
        """Give requests a row, and tell the device how their tokens are drawn."""
        if not requests:
            return
        for request in requests:
            self._row_of[request] = self._free.pop()
            self._known[request] = (0, 0)
        self.special.update(request for request in requests if _is_special(request.params))
        device, draws = self.tokens.device, self.draws
        rows, top_ks, seeds, choices = columns([
            [self._row_of[request] for request in requests],
            [min(request.params.top_k, 2**31 - 1) for request in requests],
            [_signed64(request.seed) for request in requests],
            [request.choice for request in requests],
        ], device)
        params = [request.params for request in requests]
        temperatures, top_ps, min_ps = columns([
            [0.0 if p.greedy else p.temperature for p in params], [p.top_p for p in params], [p.min_p for p in params],
        ], device, torch.float32)
        for column, values in (
            (draws.temperatures, temperatures), (draws.top_ks, top_ks.to(torch.int32)), (draws.top_ps, top_ps),
            (draws.min_ps, min_ps), (draws.seeds, seeds), (draws.choices, choices.to(torch.int32)),
        ):
            column[rows] = values


def _is_special(params: SamplingParams) -> bool:
    """Whether logits are adjusted before the draw, or their probabilities reported after it."""
    return params.penalised or bool(params.logit_bias) or params.min_tokens > 0 or params.logprobs is not None


def _signed64(word: int) -> int:
    """A seed modulo 2^64, as int64 holds it."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


class _Growth:
    """What a step adds to the ends of a table's rows, sent in one piece."""

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._places: list[range] = []
        self._values: list[list[int]] = []

    def add(self, row: int, known: int, values: list[int]) -> None:
        if len(values) > known:
            first = row * self._table.shape[1]
            self._places.append(range(first + known, first + len(values)))
            self._values.append(values[known:])

    def write(self) -> None:
        if self._places:
            flat = [*chain.from_iterable(self._places), *chain.from_iterable(self._values)]
            places, values = to_device(flat, self._table.device).view(2, -1)
            self._table.view(-1)[places] = values


Numbers = Sequence[int] | Sequence[float]


def staged(numbers: Numbers | Sequence[Numbers], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers in host memory that the device can fetch while the host goes on.

    The pinned memory is new each time: the device may read an earlier one still.
    """
    return torch.tensor(numbers, dtype=dtype, pin_memory=device.type != "cpu")


def to_device(numbers: Numbers | Sequence[Numbers], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers as a tensor on the device, without waiting for it."""
    return staged(numbers, device, dtype).to(device, non_blocking=True)


def columns(lists: Sequence[Numbers], device: torch.device, dtype: torch.dtype = torch.int64) -> tuple[Tensor, ...]:
    """Lists of one length as tensors on the device, sent in one piece; each starts on 16 bytes, as kernels want it."""
    length = len(lists[0])
    padding = [0] * (-length % 4)
    padded = [[*numbers, *padding] for numbers in lists]
    return tuple(column[:length] for column in to_device(padded, device, dtype))
