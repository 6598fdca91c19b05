"""Weights: the same tensors in any cut and by either way, and what is said of files that are not as they should be."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import InvalidModel
from engine.mapped import Mapped
from engine.models import read_architecture
from engine.source import DEMO
from engine.streamed import Streamed
from engine.tensor_file import read_header, reading_order
from engine.timeline import Timeline
from engine.weights import DTYPES, Placement, Weights
from kernels.operations import ReferenceOperations

OPERATIONS = ReferenceOperations()
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {f"layer.{n}": torch.randn(4 + n, 3, generator=draw) for n in range(4)}


@pytest.fixture(params=["mapped", "streamed"])
def placement(request: pytest.FixtureRequest) -> Placement:
    """Both ways to a tensor; the buffers are smaller than a tensor and hold no whole number of rows."""
    return Mapped(Timeline()) if request.param == "mapped" else Streamed(CPU, Timeline(), readers=3, buffer=28)


def open_weights(folder: Path, placement: Placement | None = None, dtype: torch.dtype = torch.float32) -> Weights:
    return Weights(folder, dtype, OPERATIONS.matrix_dtype, placement or Mapped(Timeline()))


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    weight_map = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        weight_map[name] = f"model-{number}.safetensors"
        save_file({name: tensor}, folder / weight_map[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_hold_what_one_file_holds(
    tmp_path: Path, tensors: dict[str, Tensor], placement: Placement
) -> None:
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    single.mkdir()
    sharded.mkdir()
    save_file(tensors, single / "model.safetensors")
    write_shards(sharded, tensors)
    one, many = open_weights(single, placement), open_weights(sharded, placement)
    taken = [(tensor, w.take(name, tuple(tensor.shape))) for name, tensor in tensors.items() for w in (one, many)]
    placement.finish()
    assert all(torch.equal(found, tensor) for tensor, found in taken)


def test_tensors_are_converted_as_they_are_taken(
    tmp_path: Path, tensors: dict[str, Tensor], placement: Placement
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, placement, torch.bfloat16)
    taken = weights.take("layer.1", (5, 3))
    weights.finish()
    assert torch.equal(taken, tensors["layer.1"].bfloat16())


def test_fused_tensors_stand_one_after_the_other(
    tmp_path: Path, tensors: dict[str, Tensor], placement: Placement
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, placement)
    fused = weights.fused(["layer.2", "layer.0"], [(6, 3), (4, 3)])
    weights.finish()
    assert isinstance(fused, Tensor)
    assert torch.equal(fused, torch.cat((tensors["layer.2"], tensors["layer.0"])))


def test_a_missing_tensor_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    with pytest.raises(InvalidModel, match="no tensor lm_head; 4 others are there"):
        weights.take("lm_head", (4, 3))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    message = r"layer\.0 has the shape \(4, 3\); config\.json asks for \(3, 4\)"
    weights = open_weights(tmp_path)
    with pytest.raises(InvalidModel, match=message):
        weights.take("layer.0", (3, 4))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def cut_in_the_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:30])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garble_the_header(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)


def claim_a_huge_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])


def replace_by_a_pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        cut_short, cut_in_the_header, empty, garble_the_header, claim_a_huge_header, replace_by_a_pointer,
        replace_by_a_folder,
    ],
)
def test_a_damaged_file_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Tensor], damage: Callable[[Path], None]
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    damage(file)
    with pytest.raises(InvalidModel, match=r"model\.safetensors is not a whole safetensors file"):
        open_weights(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_shards(tmp_path, tensors)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InvalidModel, match=r"model-2\.safetensors is missing; model\.safetensors\.index\.json names"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": null}}']
)
def test_an_index_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(InvalidModel, match=r"model\.safetensors\.index\.json cannot be read"):
        open_weights(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidModel, match="holds no safetensors file; other weight formats are not read"):
        open_weights(tmp_path)


def test_unused_tensors_are_told_of_but_for_harmless_ones(
    tmp_path: Path, tensors: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    save_file({**tensors, "x.rotary_emb.inv_freq": torch.zeros(1)}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    weights.take("layer.0", (4, 3))
    weights.warn_of_unused(["rotary_emb.inv_freq"])
    assert caplog.messages == ["3 tensors of the weights are not used, layer.1 first"]


def test_every_tensor_of_the_demo_is_used(caplog: pytest.LogCaptureFixture) -> None:
    from engine.layers import Decoder

    weights = open_weights(DEMO)
    Decoder(read_architecture(DEMO), weights, 64, OPERATIONS)
    weights.warn_of_unused([])
    assert not caplog.messages
    assert weights.bytes > sum(tensor.nbytes for tensor in load_file(DEMO / "model.safetensors").values())


def test_a_tensor_that_begins_at_an_odd_byte_is_read_right(tmp_path: Path, placement: Placement) -> None:
    numbers = torch.randn(4, 3)
    header = json.dumps({
        "odd": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "a": {"dtype": "F32", "shape": [4, 3], "data_offsets": [3, 51]},
    }).encode()
    content = struct.pack("<Q", len(header)) + header + b"odd" + numbers.numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    weights = open_weights(tmp_path, placement)
    taken = weights.take("a", (4, 3))
    weights.finish()
    assert torch.equal(taken, numbers)


def test_a_mapped_tensor_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1 << 20, 64)}, tmp_path / "model.safetensors")
    before = anonymous_memory()
    taken = open_weights(tmp_path, Mapped(Timeline())).take("a", (1 << 20, 64))
    assert taken.sum() == 1 << 26
    assert anonymous_memory() - before < 16 << 20 < taken.nbytes // 8


def anonymous_memory() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


def test_a_mapped_tensor_cannot_be_written_to(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    code = f"""
import pathlib, torch
from engine.mapped import Mapped
from engine.timeline import Timeline
from engine.weights import Weights
weights = Weights(pathlib.Path({str(tmp_path)!r}), torch.float32, lambda stored, dtype: dtype, Mapped(Timeline()))
weights.take("layer.0", (4, 3)).zero_()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV


def test_a_file_that_shrinks_while_it_is_streamed_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, Streamed(CPU, Timeline()))
    file = tmp_path / "model.safetensors"
    cut = file.stat().st_size - 20
    os.truncate(file, cut)
    for name, tensor in tensors.items():
        weights.take(name, tuple(tensor.shape))
    with pytest.raises(InvalidModel, match=rf"model\.safetensors cannot be read: it ends at byte {cut}"):
        weights.finish()


def test_readers_without_memory_are_an_error_and_no_weights_of_chance(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, Streamed(CPU, Timeline(), buffer=1 << 55))
    weights.take("layer.3", (7, 3))
    with pytest.raises(InvalidModel, match="the weights cannot be read"):
        weights.finish()


def test_settled_tensors_are_there_when_they_are_given(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path, Streamed(CPU, Timeline(), settled=True, buffer=28))
    for name, tensor in tensors.items():
        assert torch.equal(weights.take(name, tuple(tensor.shape)), tensor)


def test_the_timeline_tells_of_each_file(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_shards(tmp_path, tensors)
    timeline = Timeline()
    weights = open_weights(tmp_path, Streamed(CPU, timeline))
    for name, tensor in tensors.items():
        weights.take(name, tuple(tensor.shape))
    weights.finish()
    spans = [span for span in timeline.spans if span.name.startswith("weights ")]
    assert [span.name for span in spans] == [f"weights model-{n}.safetensors" for n in range(4)]
    assert all(span.detail["bytes"] == (tmp_path / span.name.split()[1]).stat().st_size for span in spans)
    assert all(span.detail["resident_fraction"] == 1 and float(span.detail["gb_per_s"]) > 0 for span in spans)


@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "I8", "F16"]), st.integers(0, 7)), max_size=6))
def test_headers_are_read_as_the_library_reads_them(kinds: list[tuple[str, int]]) -> None:
    made = {
        f"t{number}": torch.zeros(2, size, dtype={**DTYPES, "I8": torch.int8}[kind])
        for number, (kind, size) in enumerate(kinds)
    }
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_file(made, path, {"made": "here"})
        file = read_header(path)
        with safe_open(path, framework="pt") as theirs:
            assert file.metadata == theirs.metadata()
            assert {name: list(entry.shape) for name, entry in file.entries.items()} == {
                name: theirs.get_slice(name).get_shape() for name in theirs.keys()  # noqa: SIM118
            }


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, r"a takes 8 bytes, which is not F32 of .* \[3\]"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "a begins at byte"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "its tensors end at byte"),
        ({"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}, "no whole number"),
        ({"dtype": "F32", "shape": [2]}, "data_offsets"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, fields: dict[str, Any], why: str) -> None:
    header = json.dumps({"a": fields}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(InvalidModel, match=f"is not a whole safetensors file: .*{why}"):
        read_header(path)


def test_tensors_are_read_in_the_order_they_are_computed_with(tmp_path: Path) -> None:
    names = [
        "lm_head.weight", "model.layers.10.a", "model.layers.2.a", "model.norm.weight", "model.embed_tokens.weight",
    ]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "model.safetensors")
    order = [entry.name for entry in reading_order(read_header(tmp_path / "model.safetensors"))]
    assert order == [names[4], names[2], names[1], names[3], names[0]]
