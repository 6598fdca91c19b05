"""A model that workers could not boot is known before the first of them starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import InvalidConfig, InvalidModel, ModelNotFound
from engine.source import DEMO
from handler.local.model_check import check_model
from handler.local.processes import NOT_INHERITED
from tests.handler.processes import ROOT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO, tmp_path / "model")


def named(model: Path | str) -> dict[str, str]:
    return {"PILOTLIGHT_MODEL": str(model)}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub may be asked, whatever else is set here."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_a_whole_folder_the_demo_and_what_only_the_hub_knows_pass(model: Path) -> None:
    for name in (model, "demo", "nobody/has-this"):
        check_model(named(name))


def test_the_one_that_workers_inherit_is_read_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAME", "/nowhere/model")
    with pytest.raises(ModelNotFound, match="/nowhere/model"):
        check_model({})
    check_model(named("demo"))


def test_a_copy_that_the_hub_would_complete_is_left_to_the_workers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
    shutil.copytree(model, snapshot, ignore=shutil.ignore_patterns("tokenizer.json"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    check_model(named("owner/name"))
    with pytest.raises(InvalidModel, match=r"tokenizer\.json: missing"):
        check_model(named("owner/name") | {"PILOTLIGHT_REVISION": commit})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidModel, match=r"tokenizer\.json: missing"):
        check_model(named("owner/name"))
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE forbids"):
        check_model(named("owner/other"))


@pytest.mark.parametrize("name", sorted(NOT_INHERITED))
def test_a_variable_that_no_worker_inherits_hinders_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    check_model(named("demo"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("config.json", Path.unlink, "config.json is missing"),
        ("config.json", cut, "config.json cannot be read"),
        ("config.json", lambda file: file.write_text("[]"), "config.json is not a JSON object"),
        ("config.json", lambda file: file.write_text('{"architectures": ["Other"]}'), "Other is not known"),
        ("tokenizer.json", Path.unlink, "tokenizer.json: missing"),
        ("tokenizer.json", cut, "tokenizer.json"),
        ("model.safetensors", Path.unlink, "holds no safetensors file"),
        ("model.safetensors", cut, "model.safetensors is not a whole safetensors file"),
    ],
)
def test_what_a_boot_would_find_is_said_in_one_line(
    model: Path, name: str, damage: Callable[[Path], object], said: str
) -> None:
    damage(model / name)
    with pytest.raises(InvalidModel, match=said) as refused:
        check_model(named(model))
    assert "\n" not in str(refused.value)


@contextmanager
def as_another_user() -> Iterator[None]:
    """root may read everything."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)


def test_a_folder_that_may_not_be_read_is_named() -> None:
    check_model({})  # Imports what it needs.
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        model = shutil.copytree(DEMO, Path(parent, "model"))
        model.chmod(0)
        with as_another_user(), pytest.raises(InvalidModel, match=f"{model} cannot be read"):
            check_model(named(model))
        model.chmod(0o755)


def test_a_setting_that_no_worker_would_take_is_named() -> None:
    with pytest.raises(InvalidConfig, match="dtype"):
        check_model({"PILOTLIGHT_DTYPE": "float7"})


def test_torch_is_not_imported_for_it() -> None:
    code = "import sys, handler.local.model_check as checks; checks.check_model({}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
