"""What tests of baking share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.source import DEMO
from image.bake import bake


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, baked; to be read, not to be changed."""
    out = tmp_path_factory.mktemp("baked") / "demo"
    bake("demo", out)
    return out


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model that takes a while to bake: 256 MiB, most of it the embedding."""
    folder = tmp_path / "large"
    folder.mkdir()
    for path in DEMO.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((DEMO / "config.json").read_text())
    sizes = {"hidden_size": 1024, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 1 << 17}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    shapes = {
        "embed_tokens": (1 << 17, 1024), "norm": (1024,), "layers.0.input_layernorm": (1024,),
        "layers.0.post_attention_layernorm": (1024,), "layers.0.self_attn.q_proj": (256, 1024),
        "layers.0.self_attn.k_proj": (128, 1024), "layers.0.self_attn.v_proj": (128, 1024),
        "layers.0.self_attn.o_proj": (1024, 256), "layers.0.mlp.gate_proj": (64, 1024),
        "layers.0.mlp.up_proj": (64, 1024), "layers.0.mlp.down_proj": (1024, 64),
    }
    tensors = {f"model.{name}.weight": torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder
