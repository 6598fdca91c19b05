"""What a decoder computes with: one object for the device, made at boot, handed to every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from kernels.activation import silu_multiply
from kernels.attention import AttentionBatch
from kernels.cache import write_cache
from kernels.draws import DrawTable, draw
from kernels.linear import linear
from kernels.norm import add_rms_norm, rms_norm
from kernels.penalties import Texts, penalise_texts
from kernels.quantize import Matrix
from kernels.rotary import rotate

Norms = tuple[Tensor, Tensor]
"""Weights, [head_dim] each, of the norms of query and key heads."""


class Linear(Protocol):
    """A projection of [tokens, inputs] to [tokens, outputs], in the dtype of its input."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def pack(self) -> None:
        """Lay the weight out for speed, once the first token is out; where nothing is gained, nothing is done."""


class Attention(Protocol):
    """Where the step's queries and their keys are; made once a step and used by every layer."""

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """Grouped-query attention of the step's tokens over all of their requests' tokens up to themselves.

        Args:
            query: [tokens, heads, head_dim].
            key_cache, value_cache: [pages, page_size, kv_heads, head_dim], this step's tokens already written.
            scale: multiplies the scores.
            window: a token looks at the last so many tokens, itself included; None is all of them.
            soft_cap: scores become cap x tanh(score / cap), before masking (Gemma 2, arXiv:2408.00118).

        Returns:
            [tokens, heads, head_dim].
        """


class Operations(Protocol):
    """The operations of a decoder. Tensors lie on one device and have one floating dtype, unless said otherwise."""

    @property
    def name(self) -> str:
        """For people: which implementation this is."""

    @property
    def compilations(self) -> int:
        """Kernels compiled since the start; 0 in service, where all are compiled ahead."""

    @property
    def packs(self) -> bool:
        """Whether `Linear.pack` makes a copy of the weight, which memory must be left for."""

    def matrix_dtype(self, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
        """The dtype to keep a matrix in that is `stored` on disk, when the model computes in `dtype`.

        Never a coarser one than `dtype` or `stored`, whichever is the coarser: nothing is lost. Of a quantised matrix
        `stored` is the dtype of its values; where another is given, it is widened to that.
        """

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        """The projection by a weight of [outputs, inputs], of a dtype that `matrix_dtype` gave.

        Args:
            exact: not quantised even where the others are.
        """

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See `kernels.norm.rms_norm`."""

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """See `kernels.norm.add_rms_norm`; both inputs may be overwritten."""

    def silu_multiply(self, gate_up: Tensor) -> Tensor:
        """See `kernels.activation.silu_multiply`."""

    def rotate_and_cache(
        self, heads: Tensor, norms: Norms | None, epsilon: float, cosine: Tensor, sine: Tensor, positions: Tensor,
        slots: Tensor, key_cache: Tensor, value_cache: Tensor,
    ) -> Tensor:
        """Normalise query and key heads if there are `norms`, rotate them, store keys and values in their slots.

        Args:
            heads: [tokens, heads + 2 x kv_heads, head_dim]: queries, keys, values.
            cosine, sine: [positions, head_dim], the tables of `kernels.rotary.rotary_tables`.
            positions, slots: [tokens], int64; slot = page x page_size + offset in the page.
            key_cache, value_cache: [pages, page_size, kv_heads, head_dim].

        Returns:
            The rotated queries, [tokens, heads, head_dim].
        """

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> Attention:
        """A step's attention.

        Args:
            starts: tokens of each request already in the cache, before this step.
            counts: tokens of each request in this step; its queries stand in this order, one after the other.
            page_tables: [requests, pages], int64 page numbers; entries past a request's last page are ignored.
        """

    @property
    def recordable(self) -> bool:
        """Whether `decode_attention`, `draw` and the rest never ask the host, so that a CUDA graph can hold them."""

    def decode_attention(self, tiles: Tensor, page_tables: Tensor, page_size: int, longest: int) -> Attention:
        """The attention of decodes alone, with all it needs to know in tensors, which a recording reads anew.

        Args:
            tiles: [requests, 4], int32: row in the page tables, index of the token in the step, its position, and 1;
                or 0 in the last place for a request that only fills the batch, whose result means nothing.
            page_tables: [rows, pages], int64, of all rows.
            longest: no request has more tokens, this one included.
        """

    def penalise(
        self, logits: Tensor, texts: Texts, presence: Tensor, frequency: Tensor, repetition: Tensor
    ) -> Tensor:
        """See `kernels.penalties.penalise_texts`."""

    def draw(self, logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> tuple[Tensor, Tensor]:
        """See `kernels.draws.draw`."""


class ReferenceLinear:
    """A projection by torch's own product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self._weight, self._bias)

    def pack(self) -> None:
        """Nothing: torch takes the weight as it is."""


class ReferenceDecodeAttention:
    """Decodes by `AttentionBatch`, as of when it is made: the reference may ask the host."""

    def __init__(self, tiles: Tensor, page_tables: Tensor, page_size: int) -> None:
        present = tiles[:, 3] == 1
        rows, self._queries, positions, _ = tiles[present].long().unbind(1)
        self._batch = AttentionBatch(positions.tolist(), [1] * len(rows), page_tables[rows], page_size)

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        """See `Attention.attend`."""
        out = torch.zeros_like(query)
        out[self._queries] = self._batch.attend(
            query[self._queries], key_cache, value_cache, scale, window, soft_cap
        )
        return out


class ReferenceOperations:
    """Plain torch, on any device: what every other implementation is held against."""

    compilations = 0
    packs = False
    recordable = False

    def __init__(self, name: str = "plain torch") -> None:
        self.name = name

    def matrix_dtype(self, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        assert isinstance(weight, Tensor), "`matrix_dtype` has quantised matrices widened"
        return ReferenceLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return rms_norm(x, weight, epsilon)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, residual, weight, epsilon)

    def silu_multiply(self, gate_up: Tensor) -> Tensor:
        return silu_multiply(gate_up)

    def rotate_and_cache(
        self, heads: Tensor, norms: Norms | None, epsilon: float, cosine: Tensor, sine: Tensor, positions: Tensor,
        slots: Tensor, key_cache: Tensor, value_cache: Tensor,
    ) -> Tensor:
        kv_heads = key_cache.shape[2]
        query, key, value = heads.split((heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads), dim=1)
        if norms is not None:
            query, key = rms_norm(query, norms[0], epsilon), rms_norm(key, norms[1], epsilon)
        cosine, sine = cosine[positions, None], sine[positions, None]
        write_cache(rotate(key, cosine, sine), value, key_cache, value_cache, slots)
        return rotate(query, cosine, sine)

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> Attention:
        return AttentionBatch(starts, counts, page_tables, page_size)

    def decode_attention(self, tiles: Tensor, page_tables: Tensor, page_size: int, longest: int) -> Attention:
        return ReferenceDecodeAttention(tiles, page_tables, page_size)

    def penalise(
        self, logits: Tensor, texts: Texts, presence: Tensor, frequency: Tensor, repetition: Tensor
    ) -> Tensor:
        return penalise_texts(logits, texts, presence, frequency, repetition)

    def draw(self, logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> tuple[Tensor, Tensor]:
        return draw(logits, rows, table, cutting)
