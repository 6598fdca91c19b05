"""Mistral 7B and its kin: Llama with a sliding window on every layer, where one is set."""

from pydantic import Field

from engine.models.architecture import DecoderConfig


class Config(DecoderConfig):
    """Mistral's `config.json`."""

    sliding_window: int | None = Field(default=4096, gt=0)

    def windows(self) -> tuple[int | None, ...]:
        return (self.sliding_window,) * self.num_hidden_layers
