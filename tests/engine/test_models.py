"""What is said of a model folder that is not as it should be, and that a whole one loads the same in any cut."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import InvalidModel
from engine.models import FAMILIES, read_architecture
from engine.models.architecture import Architecture
from engine.source import DEMO
from kernels.operations import ReferenceOperations

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 512,
}
OPERATIONS = ReferenceOperations()
CPU = torch.device("cpu")


def architecture(folder: Path, **changes: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return read_architecture(folder)


# config.json


def test_the_demo_is_read_as_its_config_says() -> None:
    shape, config = read_architecture(DEMO), json.loads((DEMO / "config.json").read_text())
    assert (shape.layers, shape.heads) == (config["num_hidden_layers"], config["num_attention_heads"])
    assert (shape.kv_heads, shape.head_dim) == (config["num_key_value_heads"], config["head_dim"])
    assert (shape.vocab_size, shape.tied) == (config["vocab_size"], config["tie_word_embeddings"])
    assert shape.cache_values_per_token == 2 * shape.layers * shape.kv_heads * shape.head_dim


def test_an_unknown_architecture_is_refused_naming_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="architecture GPT2LMHeadModel is not known; known are ") as raised:
        architecture(tmp_path, architectures=["GPT2LMHeadModel"])
    assert all(name in str(raised.value) for name in FAMILIES)


@pytest.mark.parametrize("names", [None, [], 3, "LlamaForCausalLM", [3], [{}], [None]])
def test_architectures_that_are_no_list_of_names_are_refused(tmp_path: Path, names: object) -> None:
    with pytest.raises(InvalidModel, match="architecture"):
        architecture(tmp_path, architectures=names)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_known_family_reads_a_plain_config(tmp_path: Path, name: str) -> None:
    assert architecture(tmp_path, architectures=[name]).layers == 3


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"config\.json is missing"):
        read_architecture(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff\xfe"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidModel, match=r"config\.json"):
        read_architecture(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "wide"), ("hidden_size", None), ("num_hidden_layers", 0), ("num_attention_heads", -1),
        ("vocab_size", []), ("rms_norm_eps", 0), ("rope_theta", "x"), ("hidden_act", "gelu"), ("head_dim", 0),
        ("quantization_config", {"quant_method": "gptq"}), ("rope_scaling", [1]), ("partial_rotary_factor", 0.5),
        ("attention_bias", "perhaps"),
    ],
)
def test_a_field_that_cannot_be_served_is_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(InvalidModel, match=rf"config\.json: {field}: "):
        architecture(tmp_path, **{field: value})


def test_a_missing_field_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "vocab_size"}))
    with pytest.raises(InvalidModel, match="vocab_size"):
        read_architecture(tmp_path)


def test_heads_that_cannot_share_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="4 heads cannot share 3 key-value heads"):
        architecture(tmp_path, num_key_value_heads=3)


def test_a_whole_rotary_factor_is_no_reason_to_refuse(tmp_path: Path) -> None:
    assert architecture(tmp_path, partial_rotary_factor=1.0).layers == 3


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "longrope"}, "rope type longrope is not known; known are default, linear, llama3, yarn"),
        ({"type": "dynamic", "factor": 2.0}, "rope type dynamic is not known"),
        ({"rope_type": "linear"}, "rope type linear needs factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "rope type llama3 needs original_max_position_embeddings"),
        ({"rope_type": "linear", "factor": "x"}, "rope"),
        ({"rope_type": "linear", "factor": 0}, "rope"),
        ({"rope_type": ["yarn"]}, "rope"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_a_rotary_embedding_that_cannot_be_served_is_refused(
    tmp_path: Path, field: str, rope: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidModel, match=message):
        architecture(tmp_path, **{field: rope})


@pytest.mark.parametrize(
    "places",
    [
        {"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
    ids=str,
)
def test_the_rotary_base_is_found_wherever_it_stands(tmp_path: Path, places: dict[str, Any]) -> None:
    frequencies = architecture(tmp_path, **places).rope.inverse_frequencies
    assert frequencies == pytest.approx([5e5 ** (-2 * i / 16) for i in range(8)])


def test_a_linear_rope_divides_every_frequency(tmp_path: Path) -> None:
    plain = architecture(tmp_path).rope.inverse_frequencies
    stretched = architecture(tmp_path, rope_scaling={"type": "linear", "factor": 4.0}).rope.inverse_frequencies
    assert [frequency / 4 for frequency in plain] == list(stretched)


def test_a_yarn_rope_scales_by_its_factors_logarithm(tmp_path: Path) -> None:
    rope = architecture(tmp_path, rope_scaling={"type": "yarn", "factor": 4.0}).rope
    assert rope.scale == pytest.approx(0.1 * math.log(4) + 1)


QWEN = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 64, "use_sliding_window": True}


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, (None, None, None)),
        ({"max_window_layers": 1}, (None, 64, 64)),
        ({"max_window_layers": 1, "use_sliding_window": False}, (None, None, None)),
        ({"max_window_layers": 1, "sliding_window": None}, (None, None, None)),
        ({"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}, (64, None, 64)),
    ],
)
def test_only_the_layers_that_say_so_slide(
    tmp_path: Path, changes: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    assert architecture(tmp_path, **{**QWEN, **changes}).windows == windows


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (["full_attention"], "1 layer_types for 3 layers"),
        (["linear_attention", "full_attention", "full_attention"], "layer type linear_attention is not known"),
        ("full_attention", "layer_types"), ([1, 2, 3], "layer_types"),
    ],
)
def test_layer_types_that_do_not_fit_are_refused(tmp_path: Path, types: object, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        architecture(tmp_path, **QWEN, layer_types=types)


def test_every_layer_of_mistral_slides_where_a_window_is_set(tmp_path: Path) -> None:
    assert architecture(tmp_path, architectures=["MistralForCausalLM"], sliding_window=32).windows == (32, 32, 32)
    assert architecture(tmp_path, architectures=["MistralForCausalLM"], sliding_window=None).windows == (None,) * 3
