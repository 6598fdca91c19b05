"""Where a model is baked to: nothing that is somebody's own is lost, and a link means the folder it leads to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from image.bake import BakeOptions, bake
from image.folder import BakeFailed
from image.verify import verify

FORCE = BakeOptions(quantize="int8", force=True)


@pytest.fixture
def out(baked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(baked, tmp_path / "out")


def test_a_model_is_not_baked_in_its_own_place(out: Path) -> None:
    before = (out / "model.safetensors").read_bytes()
    for place in (out, out / "inside", out.parent):
        with pytest.raises(BakeFailed, match=r"lie in each other|is not empty"):
            bake(str(out), place, FORCE)
    assert (out / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


@pytest.mark.parametrize("name", ["notes.txt", "more/notes.txt"])
def test_a_file_that_no_bake_put_there_is_not_lost_to_force(out: Path, name: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(BakeFailed, match=f"also holds {name}, which no bake put there"):
        bake("demo", out, FORCE)
    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("target", ["empty", "missing", "baked"])
def test_a_link_means_the_folder_it_leads_to(out: Path, tmp_path: Path, target: str) -> None:
    place = tmp_path / "place"
    if target == "empty":
        place.mkdir()
    elif target == "baked":
        out.rename(place)
    link = tmp_path / "link"
    link.symlink_to(place)
    bake("demo", link, FORCE)
    assert link.is_symlink()
    assert verify(place) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
