"""Attention over paged keys and values, for any mix of prompt chunks and single decode tokens.

The reference gathers each request's pages and calls torch's scaled dot product. Requests that decode are batched in
groups of like context length, so that padding at most doubles the work; a prompt chunk is a group of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(slots=True)
class _Group:
    """Requests attended to at once.

    Attributes:
        queries: [requests, queries] indices into the step's tokens.
        slots: [requests, longest context] cache slots; short contexts repeat their first slot, masked.
        key_positions: [longest context].
        query_positions: [requests, queries].
    """

    queries: Tensor
    slots: Tensor
    key_positions: Tensor
    query_positions: Tensor
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[requests, 1, queries, longest context]: 0 where a query may look, minus infinity elsewhere."""
        if window not in self.masks:
            distance = self.query_positions[:, None, :, None] - self.key_positions
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self.masks[window] = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(
                hidden, float("-inf")
            )
        return self.masks[window]


class AttentionBatch:
    """Where the step's queries and their keys are; made once a step and used by every layer.

    Args:
        starts: tokens of each request already in the cache, before this step.
        counts: tokens of each request in this step; its queries stand in this order, one after the other.
        page_tables: [requests, pages], int64 page numbers; entries past a request's last page are ignored.
    """

    def __init__(self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int) -> None:
        self._page_tables = page_tables
        self._page_size = page_size
        self._groups: list[_Group] = []
        decoding: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        first = 0
        for request, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if count == 1:
                decoding[start.bit_length()].append((request, first, start))
            else:
                self._groups.append(self._group([request], [list(range(first, first + count))], [start], count))
            first += count
        for members in decoding.values():
            requests, queries, positions = zip(*members, strict=True)
            self._groups.append(self._group(requests, [[query] for query in queries], positions, 1))

    def _group(
        self, requests: Sequence[int], queries: list[list[int]], starts: Sequence[int], count: int
    ) -> _Group:
        device, size = self._page_tables.device, self._page_size
        start = torch.tensor(starts, device=device)
        key_positions = torch.arange(max(starts) + count, device=device)
        known = key_positions < (start + count)[:, None]
        tables = self._page_tables[torch.tensor(requests, device=device)]
        positions = key_positions.expand(len(requests), -1).where(known, 0)
        slots = tables.gather(1, positions // size) * size + positions % size
        query_positions = start[:, None] + torch.arange(count, device=device)
        return _Group(torch.tensor(queries, device=device), slots, key_positions, query_positions)

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """See `kernels.operations.Attention.attend`."""
        keys, values = key_cache.flatten(0, 1), value_cache.flatten(0, 1)
        out = torch.empty_like(query)
        for group in self._groups:
            out[group.queries] = _attend_group(query, keys, values, group, scale, window, soft_cap)
        return out


def _attend_group(
    query: Tensor, keys: Tensor, values: Tensor, group: _Group, scale: float, window: int | None,
    soft_cap: float | None,
) -> Tensor:
    requests, count = group.queries.shape
    kv_heads, head_dim = keys.shape[1:]
    shared = query.shape[1] // kv_heads
    # The queries that share a key head become rows of one product, so keys and values are never repeated.
    q = query[group.queries].unflatten(2, (kv_heads, shared)).permute(0, 2, 3, 1, 4)
    q = q.reshape(requests, kv_heads, shared * count, head_dim)
    k, v = keys[group.slots].transpose(1, 2), values[group.slots].transpose(1, 2)
    mask = group.mask(window, query.dtype).repeat(1, 1, shared, 1)
    if soft_cap is None:
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    else:
        scores = soft_cap * torch.tanh(q @ k.transpose(-1, -2) * (scale / soft_cap)) + mask
        attended = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    attended = attended.unflatten(2, (shared, count)).permute(0, 3, 1, 2, 4)
    return attended.reshape(requests, count, query.shape[1], head_dim)
