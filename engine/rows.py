"""The device's record of running requests: a permanent row each, from first step to end or preemption."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.request import Request


class Rows:
    """Token ids and page tables by row.

    A request's tokens and pages only ever grow at their end, so each step writes what is new and nothing else.

    Attributes:
        tokens: [rows, max_model_len], int64.
        page_tables: [rows, pages a context fills], int64.
    """

    def __init__(self, rows: int, max_model_len: int, page_size: int, device: torch.device) -> None:
        self.tokens = torch.zeros((rows, max_model_len), dtype=torch.int64, device=device)
        self.page_tables = torch.zeros((rows, -(-max_model_len // page_size)), dtype=torch.int64, device=device)
        self._free = list(range(rows - 1, -1, -1))
        self._row_of: dict[Request, int] = {}
        self._written: dict[Request, tuple[int, int]] = {}

    def update(self, request: Request) -> int:
        """Bring a request's row up to date, giving it one at first; returns the row."""
        row = self._row_of.get(request)
        if row is None:
            row = self._row_of[request] = self._free.pop()
            self._written[request] = (0, 0)
        tokens, pages = self._written[request]
        _append(self.tokens[row], request.tokens, tokens)
        _append(self.page_tables[row], request.pages, pages)
        self._written[request] = (len(request.tokens), len(request.pages))
        return row

    def release(self, request: Request) -> None:
        """Take back a request's row; one that has none is no error."""
        row = self._row_of.pop(request, None)
        if row is not None:
            del self._written[request]
            self._free.append(row)


def _append(target: Tensor, values: list[int], known: int) -> None:
    if len(values) > known:
        target[known : len(values)] = torch.tensor(values[known:], dtype=torch.int64)
