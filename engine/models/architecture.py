"""The decoder that every family describes, and the part of `config.json` that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.models.rope import Rope


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder-only transformer: everything its arithmetic depends on but the weights.

    Attributes:
        windows: for each layer, how many tokens back it looks, itself included; None is all.
        tied: the head shares the embedding's weight.
        context: tokens that the model was made for.
    """

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    epsilon: float
    rope: Rope
    context: int
    tied: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False

    @property
    def layers(self) -> int:
        return len(self.windows)

    @property
    def cache_values_per_token(self) -> int:
        """Numbers that one token's keys and values take over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


class DecoderConfig(BaseModel):
    """The fields of a `config.json` that all families have. A family's `Config` adds its own and its differences.

    Fields that change nothing in the arithmetic of inference are not read.
    """

    model_config = ConfigDict(frozen=True)

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0, le=1000)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    head_dim: int | None = Field(default=None, gt=0)
    vocab_size: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0, le=100_000_000)
    rms_norm_eps: float = Field(default=1e-6, gt=0)
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: bool = False
    quantization_config: None = None
    partial_rotary_factor: Literal[1] = 1

    @field_validator("quantization_config", mode="before")
    @classmethod
    def _not_quantised(cls, value: object) -> None:
        if value is not None:
            raise ValueError("quantised weights are not supported")

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderConfig:
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(f"{self.num_attention_heads} heads cannot share {self.kv_heads} key-value heads")
        return self

    @property
    def kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    def windows(self) -> tuple[int | None, ...]:
        """Each layer's sliding window."""
        return (None,) * self.num_hidden_layers

    def biases(self) -> dict[str, bool]:
        """Which projections have biases, as arguments of `Architecture`."""
        return {}

    def architecture(self) -> Architecture:
        """The decoder this configuration describes.

        Raises:
            ValueError: a rotary embedding we do not know.
        """
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        parameters = {"rope_theta": self.rope_theta, **(self.rope_parameters or self.rope_scaling or {})}
        return Architecture(
            self.hidden_size, self.intermediate_size, self.num_attention_heads, self.kv_heads, head_dim,
            self.vocab_size, self.rms_norm_eps, Rope.read(parameters, head_dim, self.max_position_embeddings),
            self.max_position_embeddings, self.tie_word_embeddings, self.windows(), **self.biases(),
        )


def layered_windows(
    layers: int, window: int | None, first_sliding: int, layer_types: list[str] | None
) -> tuple[int | None, ...]:
    """Windows of a family in which only some layers slide: those named in `layer_types`, else the last ones.

    Raises:
        ValueError: a kind of layer that is neither sliding nor full attention.
    """
    kinds = layer_types or ["sliding_attention" if i >= first_sliding else "full_attention" for i in range(layers)]
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ValueError(f"layer type {unknown.pop()} is not known")
    if len(kinds) != layers:
        raise ValueError(f"{len(kinds)} layer_types for {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
