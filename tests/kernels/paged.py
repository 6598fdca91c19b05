"""Steps of attention over pages, with everything poisoned that no kernel may read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import AttentionBatch
from kernels.operations import Attention


@dataclass(frozen=True)
class Paged:
    """A step: (tokens in the cache, tokens in this step) of each request.

    Slots no token was written to hold NaN, and page tables are -1 past a request's last page.
    """

    lengths: Sequence[tuple[int, int]]
    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    page_tables: Tensor

    @classmethod
    def random(
        cls, device: torch.device, lengths: Sequence[tuple[int, int]], heads: int = 4, kv_heads: int = 2,
        head_dim: int = 64, page_size: int = 16, dtype: torch.dtype = torch.float32,
    ) -> Paged:
        totals = [start + count for start, count in lengths]
        needed = [-(-total // page_size) for total in totals]
        pages = torch.randperm(sum(needed) + 2)
        tables = torch.full((len(lengths), max(needed) + 1), -1)
        caches = torch.full((2, len(pages), page_size, kv_heads, head_dim), float("nan"), dtype=dtype)
        for row, (total, own) in enumerate(zip(totals, pages.split([*needed, 2]), strict=False)):
            tables[row, : len(own)] = own
            positions = torch.arange(total)
            written = torch.randn(2, total, kv_heads, head_dim, dtype=dtype)
            caches[:, own[positions // page_size], positions % page_size] = written
        query = torch.randn(sum(count for _, count in lengths), heads, head_dim, dtype=dtype)
        return cls(lengths, query.to(device), caches[0].to(device), caches[1].to(device), tables.to(device))

    @property
    def starts(self) -> list[int]:
        return [start for start, _ in self.lengths]

    @property
    def counts(self) -> list[int]:
        return [count for _, count in self.lengths]

    @property
    def page_size(self) -> int:
        return self.key_cache.shape[1]

    def attend(self, attention: Attention, window: int | None = None, soft_cap: float | None = None) -> Tensor:
        """The attention's result, scaled as in a model."""
        return attention.attend(
            self.query, self.key_cache, self.value_cache, self.query.shape[2] ** -0.5, window, soft_cap
        )

    def expected(self, window: int | None = None, soft_cap: float | None = None) -> Tensor:
        """The reference's result in float32."""
        exact = Paged(
            self.lengths, self.query.float(), self.key_cache.float(), self.value_cache.float(), self.page_tables
        )
        reference = AttentionBatch(self.starts, self.counts, self.page_tables, self.page_size)
        return exact.attend(reference, window, soft_cap).to(self.query.dtype)

    def part(self, requests: Sequence[int]) -> Paged:
        """The step with only these requests in it, in this order."""
        queries = self.query.split(self.counts)
        return Paged(
            [self.lengths[request] for request in requests], torch.cat([queries[request] for request in requests]),
            self.key_cache, self.value_cache, self.page_tables[list(requests)],
        )
