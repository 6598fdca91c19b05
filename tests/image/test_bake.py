"""What a baked folder holds, and what is refused."""

from __future__ import annotations

import json
import shutil
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import InvalidConfig, InvalidModel, ModelNotFound
from engine.manifest import MANIFEST, PADDING, SCALES, WEIGHTS, Manifest, check, read_manifest
from engine.models import read_architecture
from engine.source import DEMO
from engine.text import Tokenizer
from image.bake import BakeOptions, bake
from image.folder import BakeFailed
from image.layout import pieces
from image.quality import TEXT, measure_change
from image.verify import verify
from kernels.quantize import QuantizedWeight, dequantize
from tests.engine.families import FAMILIES, Family, make_folder, reference_model

BY_NAME = {family.name: family for family in FAMILIES}


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    check(folder, manifest)
    return manifest


def joined(folder: Path) -> dict[str, Tensor]:
    """A plain folder's tensors as a decoder takes them."""
    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    return {
        piece.name: torch.cat([stored[name] for name, _ in piece.parts]) for piece in pieces(read_architecture(folder))
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model to change."""
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def edit_tensors(folder: Path, **changes: Tensor | None) -> None:
    tensors = {**load_file(folder / WEIGHTS), **changes}
    kept = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


# What is there.


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_familys_numbers_are_kept_joined_and_in_order(family: Family, tmp_path: Path) -> None:
    source, out = make_folder(family, tmp_path / "source", torch.bfloat16), tmp_path / "out"
    bake(str(source), out)
    expected, stored = joined(source), load_file(out / WEIGHTS)
    found = {name: tensor for name, tensor in stored.items() if not name.startswith(PADDING)}
    assert [tensor.name for tensor in manifest_of(out).tensors] == list(expected)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
    assert verify(out) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_keep_the_dtype_they_are_stored_in(tmp_path: Path, dtype: torch.dtype) -> None:
    source = make_folder(BY_NAME["llama-tied"], tmp_path / "source", dtype)
    bake(str(source), tmp_path / "out")
    stored = load_file(tmp_path / "out" / WEIGHTS)
    assert {tensor.dtype for name, tensor in stored.items() if not name.startswith(PADDING)} == {dtype}


def test_shards_become_one_file(tmp_path: Path, model: Path, baked: Path) -> None:
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    weight_map = {name: f"model-{number % 3}.safetensors" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, model / file)
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    bake(str(model), tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (baked / WEIGHTS).read_bytes()
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors*")] == [WEIGHTS]


def test_every_tensor_begins_on_a_page_and_the_gaps_are_zero(baked: Path) -> None:
    content = (baked / WEIGHTS).read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    assert end % 4096 == 0
    for tensor in manifest_of(baked).tensors:
        assert tensor.offset % 4096 == 0
        assert not any(content[end : tensor.offset])
        end = tensor.offset + tensor.bytes
        assert sha256(content[tensor.offset : end]).hexdigest() == tensor.sha256
    assert end == len(content)


def test_the_table_says_where_a_safetensors_reader_finds_each_tensor(baked: Path) -> None:
    content = (baked / WEIGHTS).read_bytes()
    with safe_open(baked / WEIGHTS, framework="pt") as file:
        for tensor in manifest_of(baked).tensors:
            read = file.get_tensor(tensor.name)
            numbers = bytearray(content[tensor.offset : tensor.offset + tensor.bytes])
            assert torch.equal(torch.frombuffer(numbers, dtype=read.dtype).view(tensor.shape), read)


def test_tokenizer_and_template_are_those_of_the_source(baked: Path) -> None:
    names = {
        "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
        "special_tokens_map.json",
    }
    assert contents(baked).keys() == names | {WEIGHTS, MANIFEST}
    assert all((baked / name).read_bytes() == (DEMO / name).read_bytes() for name in names)


def test_a_licence_goes_with_the_model(tmp_path: Path, model: Path) -> None:
    (model / "LICENSE.txt").write_text("Yours.")
    bake(str(model), tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "Yours."
    assert "LICENSE.txt" in manifest_of(tmp_path / "out").files


def test_the_manifest_knows_every_file_and_the_figures(baked: Path) -> None:
    manifest, shape = manifest_of(baked), read_architecture(DEMO)
    assert {name: (file.bytes, file.sha256) for name, file in manifest.files.items()} == {
        name: (len(content), sha256(content).hexdigest())
        for name, content in contents(baked).items() if name != MANIFEST
    }
    assert manifest.weight_bytes == sum(tensor.nbytes for tensor in joined(DEMO).values())
    assert manifest.kv_bytes_per_token == 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    assert (manifest.model.source, manifest.quantize, manifest.kernels) == ("demo", "none", None)


def test_baking_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bake("demo", tmp_path / name, BakeOptions(quantize="int8"))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_baked_folder_bakes_to_the_same_weights(tmp_path: Path, baked: Path) -> None:
    bake(str(baked), tmp_path / "again")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (baked / WEIGHTS).read_bytes()


def test_sisters_of_one_shape_have_different_headers(tmp_path: Path) -> None:
    """So that one's manifest beside the other's weights is known without reading them."""
    for name in ("one", "two"):
        make_folder(BY_NAME["llama2"], tmp_path / name / "model", seed=len(name) + ord(name[0]))
        bake(str(tmp_path / name / "model"), tmp_path / name / "out")
    one, two = tmp_path / "one" / "out", tmp_path / "two" / "out"
    assert (one / "config.json").read_bytes() == (two / "config.json").read_bytes()
    shutil.copy(two / MANIFEST, one)
    with pytest.raises(InvalidModel, match=r"model\.safetensors is not what boot\.json was written for"):
        manifest_of(one)


# Rounded.


@pytest.mark.parametrize(("quantize", "limit"), [("int8", 0.01), ("int4", 0.16)])
def test_rounded_projections_stand_for_nearly_the_same_numbers(tmp_path: Path, quantize: Any, limit: float) -> None:
    bake("demo", tmp_path / "out", BakeOptions(quantize=quantize))
    stored, whole = load_file(tmp_path / "out" / WEIGHTS), joined(DEMO)
    rounded = {name.removesuffix(SCALES) for name in stored if name.endswith(SCALES)}
    assert rounded == {name for name in whole if "_proj.weight" in name}
    for name, tensor in whole.items():
        if name in rounded:
            back = dequantize(QuantizedWeight(stored[name], stored[name + SCALES]))
            assert ((back - tensor).norm() / tensor.float().norm()) < limit
        else:
            assert torch.equal(stored[name], tensor)
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_what_rounding_changed_is_reported_and_kept(tmp_path: Path, quantize: Any) -> None:
    report = bake("demo", tmp_path / "out", BakeOptions(quantize=quantize))
    quality = manifest_of(tmp_path / "out").quality
    assert quality is not None
    assert (quality.measure, quality.before) == ("counting", 1.0)
    assert 0.8 <= quality.after <= 1.0
    assert report.quality == {"measure": "counting", "before": 1.0, "after": quality.after, "samples": quality.samples}


@pytest.mark.parametrize("name", ["llama-biased", "qwen3", "mistral-window"])
def test_other_models_are_measured_by_perplexity_as_transformers_has_it(tmp_path: Path, name: str) -> None:
    source = make_folder(BY_NAME[name], tmp_path / "source")
    report = bake(str(source), tmp_path / "out", BakeOptions(quantize="int8"))
    ids = encoded(source, TEXT)[: read_architecture(source).context]
    logits = reference_model(source)(torch.tensor([ids])).logits[0]
    perplexity = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).exp().item()
    assert report.quality is not None
    assert report.quality["before"] == pytest.approx(perplexity, rel=1e-3)
    assert report.quality["after"] == pytest.approx(perplexity, rel=0.1)


def test_the_numbers_after_rounding_are_what_is_measured(tmp_path: Path) -> None:
    source = make_folder(BY_NAME["llama2"], tmp_path / "source")
    shape, tensors = read_architecture(source), joined(source)
    quality = measure_change(
        source, shape, pieces(shape), lambda piece: tensors[piece.name],
        lambda piece: tensors[piece.name] * (0.5 if piece.rounds else 1), is_demo=False,
    )
    assert quality.measure == "perplexity"
    assert quality.after != quality.before


def encoded(folder: Path, text: str) -> list[int]:
    return Tokenizer.from_folder(folder).encode(text, add_special_tokens=True)


def test_int4_refuses_inputs_that_are_no_whole_groups_by_name(tmp_path: Path) -> None:
    source = make_folder(BY_NAME["llama2"], tmp_path / "source")
    with pytest.raises(BakeFailed, match=r"layers\.0\.mlp\.down_proj\.weight has 96, which are no whole groups"):
        bake(str(source), tmp_path / "out", BakeOptions(quantize="int4"))
    assert not (tmp_path / "out").exists()


# Refused.


def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InvalidModel, match="quantised weights are not supported"):
        bake(str(model), tmp_path / "out")


def test_a_rounded_folder_is_not_baked_again(tmp_path: Path) -> None:
    bake("demo", tmp_path / "int8", BakeOptions(quantize="int8"))
    with pytest.raises(InvalidModel, match="is baked with int8 weights"):
        bake(str(tmp_path / "int8"), tmp_path / "out")


NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NORM: None}, r"hold no tensor model\.norm\.weight"),
        ({NORM: torch.zeros(3, dtype=torch.bfloat16)}, r"model\.norm\.weight has the shape \(3,\); .* \(128,\)"),
        ({NORM: torch.zeros(128, dtype=torch.float64)}, r"model\.norm\.weight is of the dtype F64; only BF16"),
        ({NORM: torch.zeros(128, dtype=torch.int8)}, r"model\.norm\.weight is of the dtype I8"),
        ({QUERY: torch.zeros(256, 128)}, r"q_proj\.weight is F32.*k_proj\.weight is BF16.*cannot be joined"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, model: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    edit_tensors(model, **changes)
    with pytest.raises(InvalidModel, match=message):
        bake(str(model), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [model]


def test_tensors_that_nobody_takes_are_left_out_and_told_of(tmp_path: Path, model: Path) -> None:
    edit_tensors(model, **{"vision.weight": torch.zeros(2), "x.rotary_emb.inv_freq": torch.zeros(2)})
    report = bake(str(model), tmp_path / "out")
    assert report.warnings == ("1 tensors of the weights are not used and not baked, vision.weight first",)
    assert "vision.weight" not in load_file(tmp_path / "out" / WEIGHTS)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json"),
        ("tokenizer.json", "{", "tokenizer.json"),
        ("chat_template.jinja", "{% if %}", "chat template"),
        ("chat_template.jinja", "{{ raise_exception('no') }}", "a plain question: .* refuses these messages: no"),
        ("chat_template.jinja", "hello", "leaves the question out"),
        ("config.json", "{", "config.json"),
    ],
)
def test_text_files_that_would_fail_in_service_fail_here(
    tmp_path: Path, model: Path, file: str, text: str | None, message: str
) -> None:
    (model / file).unlink()
    if text is not None:
        (model / file).write_text(text)
    with pytest.raises(InvalidModel, match=message):
        bake(str(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    with pytest.raises(InvalidModel, match="none of the model's 20"):
        bake(str(model), tmp_path / "out")


def test_a_tokenizer_that_changes_text_is_refused(tmp_path: Path, model: Path) -> None:
    content = json.loads((model / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InvalidModel, match="'Hello, world!' comes back as 'hello, world!'"):
        bake(str(model), tmp_path / "out")


def test_a_model_without_a_template_is_baked_with_a_warning(tmp_path: Path, model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    assert "no chat template" in bake(str(model), tmp_path / "out").warnings[0]


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="neither a folder nor a hub id"):
        bake(str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(InvalidConfig, match="revision"):
        bake("demo", tmp_path / "out", BakeOptions(revision="v1"))


# Where it goes.


def test_a_place_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for force in (False, True):
        with pytest.raises(BakeFailed, match="is not empty and no baked folder"):
            bake("demo", tmp_path / "letters", BakeOptions(force=force))
        with pytest.raises(BakeFailed, match="is a file"):
            bake("demo", tmp_path / "file", BakeOptions(force=force))
    assert contents(tmp_path / "letters") == {"mine.txt": b"dear"}


def test_an_empty_folder_and_missing_parents_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "deep" / "down" / "here"):
        bake("demo", out)
        assert verify(out) == []


def test_a_baked_folder_is_replaced_by_force_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bake("demo", out)
    with pytest.raises(BakeFailed, match="--force replaces it"):
        bake("demo", out, BakeOptions(quantize="int8"))
    assert manifest_of(out).quantize == "none"
    bake("demo", out, BakeOptions(quantize="int8", force=True))
    assert manifest_of(out).quantize == "int8"
    assert list(tmp_path.iterdir()) == [out]


def test_a_forced_bake_that_fails_leaves_the_old_folder(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    bake("demo", out)
    edit_tensors(model, **{NORM: None})
    with pytest.raises(InvalidModel):
        bake(str(model), out, BakeOptions(force=True))
    assert verify(out) == []
