"""Model folders that would take the machine down, or answer garbage, if they were believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import InvalidModel, ModelNotFound
from engine.llm import LLM
from engine.models import read_architecture
from engine.source import DEMO, find_model


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_plain_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InvalidModel, match="quantised weights are not supported"):
        LLM(str(folder), device="cpu")


def test_a_context_that_no_memory_holds_is_cut_before_anything_is_made_for_it(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 100_000_000}))
    plan = LLM(str(folder), device="cpu", kv_memory=20 << 20, max_running=2).booted.plan
    assert plan.max_model_len == plan.kv_tokens < 100_000
    assert plan.warnings


def test_frequencies_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": {"rope_theta": float("nan")}}))
    with pytest.raises(InvalidModel, match="not numbers"):
        read_architecture(folder)


@pytest.mark.parametrize("name", ["~nosuchuser/x", "a" * 5000])
def test_a_name_that_cannot_even_be_looked_for_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(name)
