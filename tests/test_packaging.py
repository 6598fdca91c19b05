"""The distribution holds what the tree holds, and CI's versions are pinned."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOT_SHIPPED = {"tests", "benchmarks", "docs"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def is_shipped(path: Path) -> bool:
    top, *_ = parts = path.relative_to(ROOT).parts
    built = path.suffix == ".so" or "__pycache__" in parts or top.endswith(".egg-info") or top in {"build", "dist"}
    return not (built or top in NOT_SHIPPED or top.startswith("."))


def shipped(pattern: str) -> list[Path]:
    """What is in the folders that are shipped; no other is looked into, since other processes are at work there."""
    tops = [folder for folder in ROOT.iterdir() if folder.is_dir() and is_shipped(folder)]
    return [path for folder in tops for path in folder.rglob(pattern) if is_shipped(path)]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    pairs = [line.split("==") for line in lines]
    return {normalised(name): version for name, version in pairs}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_packages_are_the_folders_in_the_tree(project: dict[str, Any]) -> None:
    folders = {path.parent for path in shipped("*.py")}
    packages = sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert project["tool"]["setuptools"]["packages"] == packages


def test_every_package_has_an_init(project: dict[str, Any]) -> None:
    folders = [ROOT / package.replace(".", "/") for package in project["tool"]["setuptools"]["packages"]]
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_modules_are_the_files_on_top(project: dict[str, Any]) -> None:
    modules = sorted(path.stem for path in ROOT.glob("*.py") if path.name != "setup.py")
    assert project["tool"]["setuptools"]["py-modules"] == modules


def test_data_files_are_package_data(project: dict[str, Any]) -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, names in project["tool"]["setuptools"]["package-data"].items()
        for pattern in names
    ]
    files = [path for path in shipped("*") if path.is_file() and path.suffix != ".py"]
    compiled = ROOT / "kernels/cpu/source"
    names = [str(path.relative_to(ROOT)) for path in files if path.parent != compiled]
    assert names
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_every_dependency_is_pinned(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(requirement for extra in extras for requirement in extra)]
    names = {normalised(re.split(r"[\[<>=~! ]", requirement)[0]) for requirement in wanted}
    assert names - constraints().keys() == {"pilotlight"}, "one extra takes in others"


def test_constraints_are_exact_and_portable() -> None:
    assert constraints()["torch"] == "2.13.0"
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
