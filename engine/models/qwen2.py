"""Qwen2 and Qwen2.5: biases on queries, keys and values; a sliding window on some layers, where one is set."""

from pydantic import Field

from engine.models.architecture import DecoderConfig, layered_windows


class Config(DecoderConfig):
    """Qwen2's `config.json`."""

    use_sliding_window: bool = False
    sliding_window: int | None = Field(default=4096, gt=0)
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    def windows(self) -> tuple[int | None, ...]:
        window = self.sliding_window if self.use_sliding_window else None
        return layered_windows(self.num_hidden_layers, window, self.max_window_layers, self.layer_types)

    def biases(self) -> dict[str, bool]:
        return {"qkv_bias": True}
