"""The decoder: embedding, layers, head, over the step's tokens laid end to end.

Layers are made here and nowhere else. Each takes its weights from a `Weights` under the names Hugging Face gives
them; projections that read the same input are fused into one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from mmap import mmap

import torch
from torch import Tensor
from torch.nn.functional import embedding

from engine.models.architecture import Architecture
from engine.weights import Weights
from kernels.activation import silu_multiply
from kernels.attention import AttentionBatch
from kernels.cache import write_cache
from kernels.linear import linear
from kernels.norm import add_rms_norm, rms_norm
from kernels.rotary import rotary_tables, rotate


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's tokens.

    Attributes:
        token_ids, positions, slots: [tokens], int64; a slot says where in the cache the token's key goes.
        attention: which tokens look at which.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attention: AttentionBatch


class KVCache:
    """Keys and values of every layer, [layers, 2, pages, page_size, kv_heads, head_dim].

    Zeroed, so that a masked slot that was never written weighs nothing.
    """

    def __init__(
        self, shape: Architecture, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (shape.layers, 2, pages, page_size, shape.kv_heads, shape.head_dim)
        on_cpu = device.type == "cpu"
        self._storage = _lazy_zeros(size, dtype) if on_cpu else torch.zeros(size, dtype=dtype, device=device)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, each [pages, page_size, kv_heads, head_dim]."""
        key, value = self._storage[index]
        return key, value


def _lazy_zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory, and time, only when first written: `torch.zeros` would write them all at boot."""
    return torch.frombuffer(mmap(-1, math.prod(size) * dtype.itemsize), dtype=dtype).view(size)


class _Linear:
    """A projection; several names are fused, their outputs one after the other."""

    def __init__(self, weights: Weights, names: list[str], outputs: list[int], inputs: int, bias: bool) -> None:
        self.weight = weights.fused([f"{name}.weight" for name in names], [(size, inputs) for size in outputs])
        self.bias = weights.fused([f"{name}.bias" for name in names], [(size,) for size in outputs]) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Attention:
    def __init__(self, shape: Architecture, index: int, weights: Weights) -> None:
        name = f"model.layers.{index}.self_attn"
        self._shape = shape
        self._window = shape.windows[index]
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        names = [f"{name}.{part}_proj" for part in "qkv"]
        self._qkv = _Linear(weights, names, [queries, keys, keys], shape.hidden_size, shape.qkv_bias)
        self._output = _Linear(weights, [f"{name}.o_proj"], [shape.hidden_size], queries, shape.output_bias)
        self._head_norms: list[Tensor] = [
            weights.take(f"{name}.{part}_norm.weight", (shape.head_dim,)) for part in ("qk" if shape.head_norm else "")
        ]

    def __call__(
        self, x: Tensor, batch: Batch, cosine: Tensor, sine: Tensor, key_cache: Tensor, value_cache: Tensor
    ) -> Tensor:
        shape = self._shape
        heads = self._qkv(x).unflatten(-1, (-1, shape.head_dim))
        rotated = rotate(self._normalised(heads[:, : shape.heads + shape.kv_heads]), cosine, sine)
        query, key = rotated.split((shape.heads, shape.kv_heads), dim=1)
        write_cache(key, heads[:, -shape.kv_heads :], key_cache, value_cache, batch.slots)
        attended = batch.attention.attend(query, key_cache, value_cache, shape.head_dim**-0.5, self._window)
        return self._output(attended.flatten(1))

    def _normalised(self, heads: Tensor) -> Tensor:
        if not self._head_norms:
            return heads
        parts = heads.split((self._shape.heads, self._shape.kv_heads), dim=1)
        normalised = [
            rms_norm(part, weight, self._shape.epsilon) for part, weight in zip(parts, self._head_norms, strict=True)
        ]
        return torch.cat(normalised, dim=1)


class _FeedForward:
    def __init__(self, shape: Architecture, index: int, weights: Weights) -> None:
        name, inner, outer = f"model.layers.{index}.mlp", shape.intermediate_size, shape.hidden_size
        names = [f"{name}.gate_proj", f"{name}.up_proj"]
        self._gate_up = _Linear(weights, names, [inner, inner], outer, shape.mlp_bias)
        self._down = _Linear(weights, [f"{name}.down_proj"], [outer], inner, shape.mlp_bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(silu_multiply(self._gate_up(x)))


class _Layer:
    def __init__(self, shape: Architecture, index: int, weights: Weights) -> None:
        name = f"model.layers.{index}"
        self._epsilon = shape.epsilon
        self._input_norm = weights.take(f"{name}.input_layernorm.weight", (shape.hidden_size,))
        self._attention = _Attention(shape, index, weights)
        self._inner_norm = weights.take(f"{name}.post_attention_layernorm.weight", (shape.hidden_size,))
        self._feed_forward = _FeedForward(shape, index, weights)

    def __call__(
        self, x: Tensor, residual: Tensor, batch: Batch, cosine: Tensor, sine: Tensor, cache: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        x, residual = add_rms_norm(x, residual, self._input_norm, self._epsilon)
        x = self._attention(x, batch, cosine, sine, *cache)
        x, residual = add_rms_norm(x, residual, self._inner_norm, self._epsilon)
        return self._feed_forward(x), residual


class Decoder:
    """The whole model. Holds no request's state: that is in the batch and the cache."""

    def __init__(self, shape: Architecture, weights: Weights, max_positions: int) -> None:
        self._epsilon = shape.epsilon
        self._embedding = weights.take("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))
        self._layers = [_Layer(shape, index, weights) for index in range(shape.layers)]
        self._norm = weights.take("model.norm.weight", (shape.hidden_size,))
        tied = shape.tied
        self._head = self._embedding if tied else weights.take("lm_head.weight", (shape.vocab_size, shape.hidden_size))
        frequencies = torch.tensor(shape.rope.inverse_frequencies, dtype=torch.float32)
        cosine, sine = rotary_tables(frequencies, max_positions, shape.rope.scale, self._embedding.dtype)
        self._cosine, self._sine = cosine.to(self._embedding.device), sine.to(self._embedding.device)

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Compute the step's tokens, writing their keys and values into the cache.

        Returns:
            [tokens, hidden_size], normalised, ready for `logits`.
        """
        cosine, sine = self._cosine[batch.positions, None], self._sine[batch.positions, None]
        residual = embedding(batch.token_ids, self._embedding)
        x = torch.zeros_like(residual)
        for index, layer in enumerate(self._layers):
            x, residual = layer(x, residual, batch, cosine, sine, cache.layer(index))
        return add_rms_norm(x, residual, self._norm, self._epsilon)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden_size] to [rows, vocab_size], float32. Ask only for rows that are sampled."""
        return linear(hidden, self._head).float()
