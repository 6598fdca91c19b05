"""Make a model folder of a real shape with random weights: `python -m benchmarks.make_model OUT`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.source import DEMO

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152,
    },
    "tiny": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 2048,
    },
}
"""Llama shapes; 135m is SmolLM-135M's."""


def make_model(folder: Path, shape: str, seed: int = 0, context: int = 2048) -> Path:
    """Write a Llama of the named shape, bfloat16, tied head, with the demo's tokenizer so that it can be served."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": context, "rope_theta": 10_000.0, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "dtype": "bfloat16", "bos_token_id": None, "eos_token_id": None,
        **SHAPES[shape],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(_random_tensors(config, seed), folder / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO / name, folder)
    return folder


def _random_tensors(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.ones(shape, dtype=torch.bfloat16) if len(shape) == 1
        else (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)
        for name, shape in tensor_shapes(config).items()
    }


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """A Llama's tensors, by the names the hub gives them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = {
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)
    }
    for index in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = config["vocab_size"], hidden
    return shapes


def main() -> None:
    """Read the command line and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", type=int, default=2048)
    arguments = parser.parse_args()
    print(make_model(arguments.folder, arguments.shape, arguments.seed, arguments.context))


if __name__ == "__main__":
    main()
