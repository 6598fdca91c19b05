"""What a cold start is measured with: the models, each in the forms that the sides read, made once and kept."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.make_model import make_model
from engine.models import read_architecture
from engine.source import DEMO
from image.bake import bake

ROOT = Path(__file__).parent.parent
PROMPT = 32


@dataclass(frozen=True, slots=True)
class Model:
    """A model in its forms.

    Attributes:
        plain: as the Hugging Face hub has it, bfloat16.
        baked: as Pilotlight boots it.
        converted: as OpenVINO reads it, float16; there only after `convert`.
    """

    name: str
    plain: Path
    baked: Path
    converted: Path

    def ids(self) -> list[int]:
        """The prompt: what `python -m engine.first_token` takes when it is given none."""
        draw, size = random.Random(0), read_architecture(self.plain).vocab_size
        return [draw.randrange(size) for _ in range(PROMPT)]


def find(name: str, folder: Path) -> Model:
    """The demo as it ships, or a shape of `benchmarks.make_model` with random weights, baked; both under `folder`."""
    plain, baked = folder / name, folder / f"{name}-baked"
    if name == "demo":
        baked = plain
        _once(plain, lambda path: shutil.copytree(DEMO, path))  # No other process has the copy's pages mapped.
    else:
        _once(plain, lambda path: make_model(path, name))
        _once(baked, lambda path: bake(str(plain), path))
    return Model(name, plain, baked, folder / f"{name}-openvino")


def convert(model: Model, python: Path) -> None:
    """Write a model as OpenVINO's folder.

    Args:
        python: of an environment with `optimum-intel`.
    """
    command = [str(python.with_name("optimum-cli")), "export", "openvino", "--model", str(model.plain)]
    options = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
    _once(model.converted, lambda path: _run([*command, *options, str(path)]))


def _once(target: Path, make: Callable[[Path], object]) -> None:
    """Make a folder unless it is there; one that was not finished never is."""
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(target)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)
