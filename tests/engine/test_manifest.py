"""The manifest: what a start learns from it without reading weights, and how little that costs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from engine.errors import InvalidModel
from engine.manifest import (
    MANIFEST,
    WEIGHTS,
    FileRecord,
    KernelsRecord,
    Manifest,
    ModelRecord,
    Quality,
    TensorRecord,
    check,
    encode,
    fingerprint,
    fused_name,
    read_manifest,
)

ROOT = Path(__file__).parent.parent.parent
LAYER = "model.layers.0"


BEGIN = 32_768
"""Where the data begins."""


def name(number: int) -> str:
    return f"model.layers.{number}.self_attn.qkv_proj.weight"


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 300 tensors as a bake leaves it, as far as a start looks."""
    entries = {name(n): {"dtype": "I8", "shape": [1, 1], "data_offsets": [n, n + 1]} for n in range(300)}
    header = json.dumps(entries).encode().ljust(BEGIN - 8)
    weights = len(header).to_bytes(8, "little") + header + bytes(300)
    files = {WEIGHTS: weights, "config.json": b"{}", "tokenizer.json": b"{ }"}
    for path, content in files.items():
        (tmp_path / path).write_bytes(content)
    manifest = Manifest(
        model=ModelRecord("owner/name", "c0ffee", digest(b"{}")), code_version="1.2.3",
        fingerprint=fingerprint(digest(bytes(300)), digest(b"{}"), "int8", "1.2.3"), quantize="int8",
        quality=Quality("perplexity", 7.25, 7.5, 100), weight_bytes=300, kv_bytes_per_token=2048,
        header_sha256=digest(weights[:BEGIN]), kernels=KernelsRecord((80, 90), ("bfloat16",), "5" * 64, "3.7.1"),
        files={path: FileRecord(len(content), digest(content)) for path, content in files.items()},
        tensors=tuple(TensorRecord(name(n), "I8", (1, 1), BEGIN + n, 1, digest(b"\0")) for n in range(300)),
    )
    (tmp_path / MANIFEST).write_bytes(encode(manifest))
    return tmp_path


def read(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def start(folder: Path) -> None:
    """What every start does."""
    check(folder, read(folder))


def test_what_is_written_is_read(folder: Path) -> None:
    manifest = read(folder)
    assert encode(manifest) == (folder / MANIFEST).read_bytes()
    assert manifest.tensors[7] == TensorRecord(name(7), "I8", (1, 1), BEGIN + 7, 1, digest(b"\0"))
    assert manifest.kernels == KernelsRecord((80, 90), ("bfloat16",), "5" * 64, "3.7.1")
    assert manifest.files["config.json"].bytes == 2


def test_any_json_reader_reads_it(folder: Path) -> None:
    assert json.loads((folder / MANIFEST).read_bytes())["model"]["source"] == "owner/name"


def test_a_folder_without_one_is_not_baked(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "nowhere") is None


def test_a_whole_folder_passes(folder: Path) -> None:
    start(folder)


def change(file: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).write_bytes(edit((folder / file).read_bytes()))

    return damage


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(WEIGHTS), r"model\.safetensors is missing; boot\.json names it"),
        (remove("tokenizer.json"), r"tokenizer\.json is missing"),
        (remove("config.json"), r"config\.json is missing"),
        (change(WEIGHTS, lambda content: content[:-1]), r"has 33067 bytes and not the 33068 .* it is truncated"),
        (change(WEIGHTS, lambda content: content + b"x"), r"model\.safetensors has 33069 bytes .* another file"),
        (change(WEIGHTS, lambda content: content[:100] + b"?" + content[101:]), r"model\.safetensors .* another model"),
        (change(WEIGHTS, lambda content: b"\xff" * 8 + content[8:]), r"model\.safetensors .* another model"),
        (change("config.json", lambda content: b"[]"), r"config\.json .* another model"),
        (change(MANIFEST, lambda content: content.replace(b"2048", b"2049")), r"boot\.json .* own hash does not fit"),
        (change(MANIFEST, lambda content: content + b" "), r"boot\.json .* own hash does not fit"),
        (change(MANIFEST, lambda content: content[:-9]), r"boot\.json cannot be read"),
        (change(MANIFEST, lambda content: b""), r"boot\.json cannot be read"),
        (change(MANIFEST, lambda content: b"[]"), r"boot\.json cannot be read"),
        (change(MANIFEST, lambda content: b"\xff\xfe"), r"boot\.json cannot be read"),
        (change(MANIFEST, lambda content: content.replace(b'"format": 1', b'"format": 2')), r"format 2; .* knows 1"),
    ],
)
def test_a_start_refuses_what_does_not_fit_in_one_line(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(InvalidModel, match=message) as raised:
        start(folder)
    assert "\n" not in str(raised.value)


def test_what_is_in_the_weights_is_not_looked_at(folder: Path) -> None:
    change(WEIGHTS, lambda content: content[:-1] + b"!")(folder)
    start(folder)


def test_a_folder_in_a_files_place_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(InvalidModel, match=r"tokenizer\.json is not a file"):
        start(folder)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "kernels/../../secret"])
def test_files_outside_the_folder_are_not_looked_at(folder: Path, path: str) -> None:
    manifest = read(folder)
    (folder / MANIFEST).write_bytes(encode(replace(manifest, files={path: FileRecord(1, "0" * 64)})))
    with pytest.raises(InvalidModel, match="lies outside the folder"):
        read_manifest(folder)


def test_a_start_pays_less_than_3_ms_for_300_tensors(folder: Path) -> None:
    def once() -> float:
        began = time.thread_time()  # What other processes take is not its own.
        start(folder)
        return time.thread_time() - began

    assert min(once() for _ in range(20)) < 0.003


def test_it_imports_nothing_heavy() -> None:
    program = (
        "import sys, engine.manifest; "
        "assert not {'torch', 'numpy', 'pydantic', 'safetensors', 'logging', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("names", "fused"),
    [
        ([f"{LAYER}.self_attn.{part}_proj.weight" for part in "qkv"], f"{LAYER}.self_attn.qkv_proj.weight"),
        ([f"{LAYER}.self_attn.{part}_proj.bias" for part in "qkv"], f"{LAYER}.self_attn.qkv_proj.bias"),
        ([f"{LAYER}.mlp.{part}_proj.weight" for part in ("gate", "up")], f"{LAYER}.mlp.gate_up_proj.weight"),
        ([f"{LAYER}.self_attn.o_proj.weight"], f"{LAYER}.self_attn.o_proj.weight"),
        (["norm.weight"], "norm.weight"),
        (["layer.2", "layer.0"], "layer.2+layer.0"),
        (["a.q_proj.weight", "b.k_proj.weight"], "a.q_proj.weight+b.k_proj.weight"),
    ],
)
def test_joined_tensors_have_one_name(names: list[str], fused: str) -> None:
    assert fused_name(names) == fused


def test_a_fingerprint_is_of_all_that_it_is_made_of() -> None:
    made = ["weights", "config", "int8", "1.0"]
    others = [fingerprint(*[*made[:place], "other", *made[place + 1 :]]) for place in range(4)]
    assert len({fingerprint(*made), *others}) == 5
