"""What MODEL may be, and what holds it first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from engine.errors import InvalidConfig, ModelNotFound
from engine.source import DEMO, HOST_CACHE, Found, chosen_weights, find_locally, find_model, locate
from tests.engine.hub_server import INDEX, MODEL, SMALL

ROOT = Path(__file__).parent.parent.parent
COMMIT = "c" * 40


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def snapshot(cache: Path, revision: str = COMMIT, files: Mapping[str, bytes] = SMALL, model: str = MODEL) -> Path:
    return write(cache / f"models--{model.replace('/', '--')}" / "snapshots" / revision, files)


# Folders.


def test_demo_and_folders_are_found_where_they_are(tmp_path: Path) -> None:
    assert locate("demo") == Found(DEMO, "demo")
    assert locate(str(tmp_path)) == Found(tmp_path, "folder")
    assert find_model(str(tmp_path)) == find_locally(str(tmp_path)) == tmp_path


def test_a_baked_folder_is_told_from_a_plain_one(tmp_path: Path) -> None:
    (tmp_path / "boot.json").touch()
    assert locate(str(tmp_path)).kind == "baked"


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "./nowhere", "/nowhere/at/all", "owner/"])
def test_what_is_neither_folder_nor_hub_id_is_said_to_be_so(name: str) -> None:
    with pytest.raises(ModelNotFound, match="neither a folder nor a hub id"):
        locate(name)


def test_a_file_is_no_folder() -> None:
    with pytest.raises(ModelNotFound, match="is a file; name the folder that holds it"):
        locate(str(DEMO / "config.json"))


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="which has none"):
        locate(str(tmp_path), "v1")
    assert locate(str(tmp_path), "main").kind == "folder"


def test_the_volume_holds_models_by_path_and_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "models" / "mine", SMALL)
    assert locate(str(folder), volume=tmp_path) == Found(folder, "volume")
    assert locate("models/mine", volume=tmp_path) == Found(folder, "volume")


# Hub caches.


def test_the_host_cache_is_looked_up_whatever_the_case(tmp_path: Path) -> None:
    held = snapshot(tmp_path / HOST_CACHE, model="owner/name-7b")
    assert locate("Owner/Name-7B", volume=tmp_path) == Found(held, "host cache", COMMIT)
    assert find_locally("Owner/Name-7B", volume=tmp_path) == held


def test_the_main_revision_comes_first_and_then_the_newest_whole_one(tmp_path: Path) -> None:
    cache = tmp_path / HOST_CACHE
    first, second = snapshot(cache, "first"), snapshot(cache, "second")
    os.utime(first, (1, 1))
    assert locate(MODEL, volume=tmp_path).folder == second
    write(cache / "models--owner--name" / "refs", {"main": b"first\n"})
    assert locate(MODEL, volume=tmp_path).folder == first
    (first / "config.json").unlink()
    assert locate(MODEL, volume=tmp_path).folder == second


def test_a_revision_is_taken_by_commit_or_by_name_and_no_other_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache = tmp_path / HOST_CACHE
    old = snapshot(cache, "old")
    snapshot(cache, "new")
    write(cache / "models--owner--name" / "refs", {"v1": b"old"})
    assert locate(MODEL, "old", tmp_path) == locate(MODEL, "v1", tmp_path) == Found(old, "host cache", "old")
    with pytest.raises(ModelNotFound, match="owner/name at v2 is not"):
        locate(MODEL, "v2", tmp_path)


def test_a_repository_of_a_hub_cache_may_be_named_as_a_folder(tmp_path: Path) -> None:
    held = snapshot(tmp_path)
    assert locate(str(held.parent.parent)) == Found(held, "hub cache", COMMIT)
    (held / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="no whole snapshot"):
        locate(str(held.parent.parent))


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{}"},
        {"model.safetensors": b""},
        {"config.json": b"{}", "model.safetensors.index.json": INDEX, "one.safetensors": b""},
        {"config.json": b"{}", "model.safetensors.index.json": b"{"},
        {"config.json": b"{}", "model-00001-of-00002.safetensors": b""},
        SMALL | {"../../blobs/abc.incomplete": b""},
        SMALL | {"../../blobs/abc.0123abcd.incomplete": b""},
    ],
    ids=["no weights", "no config", "a shard is missing", "half an index", "half the shards", "begun", "begun by one"],
)
def test_a_half_fetched_snapshot_is_not_the_model(files: dict[str, bytes], tmp_path: Path) -> None:
    snapshot(tmp_path / HOST_CACHE, files=files)
    assert find_locally(MODEL, volume=tmp_path) is None


def test_what_a_killed_download_left_does_no_harm_once_its_file_is_there(tmp_path: Path) -> None:
    held = snapshot(tmp_path / HOST_CACHE, files=SMALL | {"../../blobs/abc.1.incomplete": b"", "../../blobs/abc": b""})
    assert find_locally(MODEL, volume=tmp_path) == held


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["b.safetensors", "a.safetensors", "original/a.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["adapter_model.safetensors", "pytorch_model.bin"], []),
    ],
)
def test_weights_that_are_there_twice_are_chosen_once(names: list[str], chosen: list[str]) -> None:
    assert chosen_weights(names) == chosen


def test_it_imports_nothing_heavy() -> None:
    heavy = {"torch", "huggingface_hub", "httpx", "asyncio", "socket", "subprocess", "logging", "inspect", "json"}
    program = "import sys, engine.source; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & heavy == set()
