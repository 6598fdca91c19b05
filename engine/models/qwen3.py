"""Qwen3 (dense): each head's query and key normalised before rotation; windows as in Qwen2."""

from engine.models import qwen2


class Config(qwen2.Config):
    """Qwen3's `config.json`."""

    head_dim: int | None = 128
    attention_bias: bool = False

    def biases(self) -> dict[str, bool]:
        return {"qkv_bias": self.attention_bias, "output_bias": self.attention_bias, "head_norm": True}
