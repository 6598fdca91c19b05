"""Llama 2 and 3, and what is shaped like them."""

from engine.models.architecture import DecoderConfig


class Config(DecoderConfig):
    """Llama's `config.json`."""

    attention_bias: bool = False
    mlp_bias: bool = False

    def biases(self) -> dict[str, bool]:
        return {"qkv_bias": self.attention_bias, "output_bias": self.attention_bias, "mlp_bias": self.mlp_bias}
