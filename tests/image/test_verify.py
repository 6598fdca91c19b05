"""Every kind of damage to a baked folder is found, and named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.manifest import MANIFEST, WEIGHTS, read_manifest
from engine.source import DEMO
from image.bake import BakeOptions, bake
from image.progress import Advance
from image.verify import verify


@pytest.fixture
def folder(tmp_path: Path, baked: Path) -> Path:
    """A baked folder to damage."""
    return Path(shutil.copytree(baked, tmp_path / "baked"))


@pytest.fixture(scope="module")
def victim(baked: Path) -> Iterator[Path]:
    """A baked folder that each example damages and mends."""
    with TemporaryDirectory() as home:
        yield Path(shutil.copytree(baked, Path(home) / "baked"))


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_folder_as_it_was_baked_is_whole(baked: Path) -> None:
    assert verify(baked) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_in_any_file_is_found_and_its_file_named(victim: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in victim.iterdir())))
    place = data.draw(st.integers(0, (victim / name).stat().st_size - 1))
    bit = data.draw(st.integers(0, 7))
    flip(victim / name, place, bit)
    try:
        found = verify(victim)
    finally:
        flip(victim / name, place, bit)
    assert len(found) == 1
    assert name in found[0]


def test_the_damaged_tensor_is_named(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    for tensor in manifest.tensors:
        flip(folder / WEIGHTS, tensor.offset + tensor.bytes - 1, 7)
    assert verify(folder) == [
        f"{folder / WEIGHTS}: {tensor.name} is damaged: its bytes are not those that were baked"
        for tensor in manifest.tensors
    ]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert verify(folder) == [f"{folder / 'tokenizer.json'} is missing; {MANIFEST} names it"]


def test_truncated_weights_are_named(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4096])
    [problem] = verify(folder)
    assert f"{weights} has " in problem
    assert problem.endswith("it is truncated")


def test_a_manifest_of_another_model_is_told(tmp_path: Path, folder: Path) -> None:
    bake("demo", tmp_path / "int8", BakeOptions(quantize="int8"))
    shutil.copy(tmp_path / "int8" / MANIFEST, folder)
    [problem] = verify(folder)
    assert f"{folder / WEIGHTS} has " in problem
    assert "another file" in problem


@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "kernels/x.pt"]
)
def test_weights_that_the_manifest_does_not_know_are_named(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    assert verify(folder) == [f"{folder / name} is not in {MANIFEST}"]


def test_all_problems_come_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    flip(folder / "config.json", 5, 0)
    flip(folder / WEIGHTS, 5000, 0)
    (folder / "extra.gguf").touch()
    problems = verify(folder)
    assert len(problems) == 4
    for name in ("tokenizer.json", "config.json", WEIGHTS, "extra.gguf"):
        assert sum(name in problem for problem in problems) == 1


def test_a_plain_folder_is_told_from_a_damaged_one() -> None:
    assert verify(DEMO) == [f"{DEMO} is not baked: it holds no boot.json (pilotlight bake makes a folder that does)"]


def test_progress_hears_of_every_byte_once(baked: Path) -> None:
    counts: list[int] = []
    totals: list[int] = []

    def watch(what: str, total: int) -> AbstractContextManager[Advance]:
        totals.append(total)
        return nullcontext(counts.append)

    assert verify(baked, watch) == []
    assert [sum(counts)] == totals == [sum(path.stat().st_size for path in baked.iterdir() if path.name != MANIFEST)]
