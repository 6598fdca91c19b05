"""A baked folder is the model that it was baked from: the engine says the same of both."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch

from engine.errors import InvalidModel
from engine.llm import LLM
from engine.manifest import MANIFEST, WEIGHTS
from engine.request import SamplingParams
from image.bake import BakeOptions, bake
from image.demo_tasks import counting
from tests.engine.families import FAMILIES, Family, make_folder

GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


def tokens(model: Path | str, prompts: list[list[int]]) -> list[list[int]]:
    llm = LLM(str(model), device="cpu", kv_memory=32 << 20)
    return [answer.outputs[0].token_ids for answer in llm.generate(prompts, GREEDY)]


def prompts() -> list[list[int]]:
    rng = Random(0)
    return [[rng.randrange(1000) for _ in range(length)] for length in (1, 7, 40)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_baked_family_says_what_it_said_before(family: Family, tmp_path: Path) -> None:
    source = make_folder(family, tmp_path / "source", torch.bfloat16)
    bake(str(source), tmp_path / "out")
    assert tokens(tmp_path / "out", prompts()) == tokens(source, prompts())


def test_the_baked_demo_counts(baked: Path) -> None:
    tasks = [counting(first, first + 5) for first in range(0, 90, 10)]
    llm = LLM(str(baked), device="cpu", kv_memory=32 << 20)
    answers = llm.chat([[{"role": "user", "content": task.prompt}] for task in tasks], SamplingParams(temperature=0))
    assert all(task.check(answer.outputs[0].text) for task, answer in zip(tasks, answers, strict=True))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_rounded_demo_still_counts(tmp_path: Path, quantize: str) -> None:
    bake("demo", tmp_path / "out", BakeOptions(quantize=quantize))  # type: ignore[arg-type]
    tasks = [counting(first, first + 5) for first in range(0, 90, 5)]
    llm = LLM(str(tmp_path / "out"), device="cpu", kv_memory=32 << 20)
    answers = llm.chat([[{"role": "user", "content": task.prompt}] for task in tasks], SamplingParams(temperature=0))
    right = sum(task.check(answer.outputs[0].text) for task, answer in zip(tasks, answers, strict=True))
    assert right >= 0.9 * len(tasks)


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def change_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes() + b" ")


def change_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_parameters": {"rope_theta": 99999.0}}))


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"), (cut_weights, WEIGHTS),
        (change_manifest, MANIFEST), (change_config, "config.json"),
    ],
    ids=["missing file", "truncated weights", "changed manifest", "config of another model"],
)
def test_a_start_refuses_a_baked_folder_that_is_not_whole(tmp_path: Path, damage: object, name: str) -> None:
    bake("demo", tmp_path / "out")
    assert callable(damage)
    damage(tmp_path / "out")
    with pytest.raises(InvalidModel, match=name) as raised:
        LLM(str(tmp_path / "out"), device="cpu", kv_memory=32 << 20)
    assert "\n" not in str(raised.value)
