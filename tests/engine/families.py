"""Small random models of every family, as Hugging Face folders, with transformers as the reference."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from engine.source import DEMO

_SHAPE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}


@dataclass(frozen=True)
class Family:
    """A configuration of a family that exercises one of its traits."""

    name: str
    config: str
    traits: dict[str, Any] = field(default_factory=dict)


FAMILIES = [
    Family("llama2", "LlamaConfig", {"num_key_value_heads": 4}),
    Family("llama3", "LlamaConfig", {"rope_parameters": _LLAMA3_ROPE}),
    Family("llama-tied", "LlamaConfig", {"tie_word_embeddings": True, "head_dim": 32}),
    Family("llama-biased", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    Family("llama-yarn", "LlamaConfig", {"rope_parameters": _YARN_ROPE}),
    Family("mistral", "MistralConfig", {"sliding_window": None}),
    Family("mistral-window", "MistralConfig", {"sliding_window": 24}),
    Family("qwen2", "Qwen2Config", {}),
    Family("qwen2-window", "Qwen2Config", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
    Family("qwen3", "Qwen3Config", {"head_dim": 32}),
    Family("qwen3-tied", "Qwen3Config", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
]


def make_folder(family: Family, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A folder with random weights, the demo's tokenizer beside them."""
    vocabulary = transformers.AutoTokenizer.from_pretrained(DEMO).vocab_size + 64
    settings = {**_SHAPE, "vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None, **family.traits}
    config = getattr(transformers, family.config)(**settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and norms start at 0 and 1; noise makes a missing one visible. Wider weights part the logits.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(dtype).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / file, folder)
    return folder


def reference_model(folder: Path, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    """The folder as transformers loads it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.eval()
