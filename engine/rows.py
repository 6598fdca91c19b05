"""The device's record of running requests: a permanent row each, from first step to end or preemption."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain

import torch
from torch import Tensor

from engine.request import Request


class Rows:
    """Token ids and page tables by row.

    A request's tokens and pages only ever grow at their end, so each step sends what is new and nothing else; sampled
    tokens are written by the device itself.

    Attributes:
        tokens: [rows, max_model_len], int64.
        page_tables: [rows, pages a context fills], int64.
    """

    def __init__(self, rows: int, max_model_len: int, page_size: int, device: torch.device) -> None:
        self.tokens = torch.zeros((rows, max_model_len), dtype=torch.int64, device=device)
        self.page_tables = torch.zeros((rows, -(-max_model_len // page_size)), dtype=torch.int64, device=device)
        self._free = list(range(rows - 1, -1, -1))
        self._row_of: dict[Request, int] = {}
        self._known: dict[Request, tuple[int, int]] = {}

    def update(self, requests: Collection[Request]) -> list[int]:
        """Bring the requests' rows up to date, giving them one at first; returns their rows."""
        tokens = _Growth(self.tokens)
        pages = _Growth(self.page_tables)
        rows = [self._row(request) for request in requests]
        for request, row in zip(requests, rows, strict=True):
            known_tokens, known_pages = self._known[request]
            tokens.add(row, known_tokens, request.tokens)
            pages.add(row, known_pages, request.pages)
            self._known[request] = (max(known_tokens, len(request.tokens)), len(request.pages))
        tokens.write()
        pages.write()
        return rows

    def append_sampled(self, requests: Sequence[Request], rows: Tensor, lengths: Tensor, sampled: Tensor) -> None:
        """Write one sampled token a request at its end, without the host's knowing it.

        Args:
            rows, lengths: [requests], int64: each one's row, and number of tokens before this one.
            sampled: [requests], int64 token ids.
        """
        self.tokens[rows, lengths] = sampled
        for request in requests:
            tokens, pages = self._known[request]
            self._known[request] = (tokens + 1, pages)

    def release(self, request: Request) -> None:
        """Take back a request's row; one that has none is no error."""
        row = self._row_of.pop(request, None)
        if row is not None:
            del self._known[request]
            self._free.append(row)

    def _row(self, request: Request) -> int:
        if request not in self._row_of:
            self._row_of[request] = self._free.pop()
            self._known[request] = (0, 0)
        return self._row_of[request]


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


def to_device(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers as an int64 tensor on the device, without waiting for it.

    The pinned memory is new each time: the device may read an earlier one still.
    """
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=torch.int64)
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)
