"""The decoder: embedding, layers, head, over the step's tokens laid end to end.

Layers are made here and nowhere else. Each takes its weights from a `TensorSource` under the names Hugging Face gives
them; projections that read the same input are fused into one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding

from engine.lazy_zeros import lazy_zeros
from engine.models.architecture import Architecture
from engine.weights import TensorSource
from kernels.operations import Attention, Linear, Norms, Operations
from kernels.quantize import QuantizedWeight
from kernels.rotary import rotary_tables

RotaryTables = tuple[Tensor, Tensor]
"""Cosines and sines of every position, [positions, head_dim] each."""

LayerCache = tuple[Tensor, Tensor]
"""Keys and values of one layer, [pages, page_size, kv_heads, head_dim] each."""


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
    attention: Attention


class KVCache:
    """Keys and values of every layer, [layers, 2, pages, page_size, kv_heads, head_dim].

    Zeroed, so that a masked slot that was never written weighs nothing.
    """

    def __init__(
        self, shape: Architecture, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        size = (shape.layers, 2, pages, page_size, shape.kv_heads, shape.head_dim)
        self._storage = lazy_zeros(size, dtype, device)
        # Views cost 20 microseconds to make, which a step would pay in every layer.
        self._layers: list[LayerCache] = [(key, value) for key, value in self._storage]

    def layer(self, index: int) -> LayerCache:
        """Keys and values of one layer, each [pages, page_size, kv_heads, head_dim]."""
        return self._layers[index]


def _linear(
    operations: Operations, weights: TensorSource, names: list[str], outputs: list[int], inputs: int, bias: bool
) -> Linear:
    """A projection; several names are fused, their outputs one after the other."""
    weight = weights.fused([f"{name}.weight" for name in names], [(size, inputs) for size in outputs])
    added = weights.fused([f"{name}.bias" for name in names], [(size,) for size in outputs]) if bias else None
    assert not isinstance(added, QuantizedWeight), "only matrices are quantised"
    return operations.linear(weight, added)


class _Attention:
    def __init__(self, shape: Architecture, index: int, weights: TensorSource, operations: Operations) -> None:
        name = f"model.layers.{index}.self_attn"
        self._shape = shape
        self._window = shape.windows[index]
        self._operations = operations
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        names = [f"{name}.{part}_proj" for part in "qkv"]
        self.qkv = _linear(operations, weights, names, [queries, keys, keys], shape.hidden_size, shape.qkv_bias)
        self.output = _linear(
            operations, weights, [f"{name}.o_proj"], [shape.hidden_size], queries, shape.output_bias
        )
        self._norms: Norms | None = None
        if shape.head_norm:
            query, key = (weights.take(f"{name}.{part}_norm.weight", (shape.head_dim,)) for part in "qk")
            self._norms = query, key

    def __call__(
        self, x: Tensor, batch: Batch, rotary: RotaryTables, cache: LayerCache, outputs: Tensor | None
    ) -> Tensor:
        shape, operations = self._shape, self._operations
        heads = self.qkv(x).unflatten(-1, (-1, shape.head_dim))
        query = operations.rotate_and_cache(
            heads, self._norms, shape.epsilon, *rotary, batch.positions, batch.slots, *cache
        )
        attended = batch.attention.attend(query, *cache, shape.head_dim**-0.5, self._window)
        return self.output((attended if outputs is None else attended[outputs]).flatten(1))


class _FeedForward:
    def __init__(self, shape: Architecture, index: int, weights: TensorSource, operations: Operations) -> None:
        name, inner, outer = f"model.layers.{index}.mlp", shape.intermediate_size, shape.hidden_size
        names = [f"{name}.gate_proj", f"{name}.up_proj"]
        self._operations = operations
        self.gate_up = _linear(operations, weights, names, [inner, inner], outer, shape.mlp_bias)
        self.down = _linear(operations, weights, [f"{name}.down_proj"], [outer], inner, shape.mlp_bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self._operations.silu_multiply(self.gate_up(x)))


class _Layer:
    def __init__(self, shape: Architecture, index: int, weights: TensorSource, operations: Operations) -> None:
        name = f"model.layers.{index}"
        self._epsilon = shape.epsilon
        self._operations = operations
        self._input_norm = weights.take(f"{name}.input_layernorm.weight", (shape.hidden_size,))
        self._attention = _Attention(shape, index, weights, operations)
        self._inner_norm = weights.take(f"{name}.post_attention_layernorm.weight", (shape.hidden_size,))
        self._feed_forward = _FeedForward(shape, index, weights, operations)

    @property
    def linears(self) -> list[Linear]:
        return [self._attention.qkv, self._attention.output, self._feed_forward.gate_up, self._feed_forward.down]

    def __call__(
        self, x: Tensor | None, residual: Tensor, batch: Batch, rotary: RotaryTables, cache: LayerCache,
        outputs: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        operations, epsilon = self._operations, self._epsilon
        if x is None:
            x = operations.rms_norm(residual, self._input_norm, epsilon)
        else:
            x, residual = operations.add_rms_norm(x, residual, self._input_norm, epsilon)
        x = self._attention(x, batch, rotary, cache, outputs)
        if outputs is not None:
            residual = residual[outputs]
        x, residual = operations.add_rms_norm(x, residual, self._inner_norm, epsilon)
        return self._feed_forward(x), residual


class Decoder:
    """The whole model. Holds no request's state: that is in the batch and the cache."""

    def __init__(self, shape: Architecture, weights: TensorSource, max_positions: int, operations: Operations) -> None:
        self._epsilon = shape.epsilon
        self._operations = operations
        self._dtype = weights.dtype
        self._embedding = weights.take("model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size))
        self._layers = [_Layer(shape, index, weights, operations) for index in range(shape.layers)]
        self._norm = weights.take("model.norm.weight", (shape.hidden_size,))
        tied = shape.tied
        head = self._embedding if tied else weights.take("lm_head.weight", (shape.vocab_size, shape.hidden_size))
        self._head = operations.linear(head, None, exact=True)  # Its errors would be the logits' own.
        frequencies = torch.tensor(shape.rope.inverse_frequencies, dtype=torch.float32)
        cosine, sine = rotary_tables(frequencies, max_positions, shape.rope.scale, self._dtype)
        self._rotary = cosine.to(self._embedding.device), sine.to(self._embedding.device)

    def forward(self, batch: Batch, cache: KVCache, outputs: Tensor | None = None) -> Tensor:
        """Compute the step's tokens, writing their keys and values into the cache.

        Args:
            outputs: [outputs], int64, one at least: the tokens whose hidden states are wanted, so that the last layer
                computes no more of the others than what they leave in the cache; None is all.

        Returns:
            [tokens or outputs, hidden_size], normalised, ready for `logits`.
        """
        x, residual = None, embedding(batch.token_ids, self._embedding).to(self._dtype)
        for index, layer in enumerate(self._layers[:-1]):
            x, residual = layer(x, residual, batch, self._rotary, cache.layer(index))
        last = len(self._layers) - 1
        x, residual = self._layers[last](x, residual, batch, self._rotary, cache.layer(last), outputs)
        return self._operations.add_rms_norm(x, residual, self._norm, self._epsilon)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden_size] to [rows, vocab_size], float32. Ask only for rows that are sampled."""
        return self._head(hidden).float()

    def packing(self) -> Iterator[None]:
        """Lay the weights out for speed, a layer between two items, the head last."""
        for layer in self._layers:
            for projection in layer.linears:
                projection.pack()
            yield
        self._head.pack()
