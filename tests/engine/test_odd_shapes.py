"""A model whose sizes no GPU kernel takes is served all the same, each of its operations by what can compute it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

pytest.importorskip("triton")

from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.engine import new_requests
from engine.request import SamplingParams
from kernels.gpu.operations import GpuOperations
from kernels.gpu.specification import ModelShape
from kernels.operations import Operations, ReferenceOperations
from tests.engine.families import Family, make_folder
from tests.kernels.interpreter import InterpretingLauncher

FAMILY = Family("odd", "LlamaConfig", {"hidden_size": 60, "head_dim": 20, "num_hidden_layers": 2})
ORDERS = itertools.count()
SHAPE = ModelShape("fp32", heads=4, kv_heads=2, head_dim=20, hidden_size=60, intermediate_size=96, page_size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(FAMILY, tmp_path_factory.mktemp("odd"))


def boot(folder: Path, operations: Operations) -> Booted:
    config = EngineConfig(str(folder), device="cpu", dtype="float32", kv_memory=1 << 20, max_running=2)
    booted = boot_core(config, operations=operations)
    booted.core.finish_deferred()
    return booted


def said(booted: Booted) -> dict[str, list[int]]:
    """The tokens of two requests of different kinds."""
    for order, params in enumerate((SamplingParams(temperature=0), SamplingParams(seed=3, presence_penalty=1.0))):
        booted.core.add(*new_requests(
            list(range(5, 30 + order)), params, request_id=str(order), order=ORDERS.__next__, max_model_len=200,
            vocab_size=booted.model.vocab_size,
        ))
    tokens: dict[str, list[int]] = {"0": [], "1": []}
    while booted.core.has_work:
        for event in booted.core.step():
            assert event.finish is None or event.finish.error is None
            tokens[event.request_id].extend(event.token_ids)
    return tokens


def test_it_says_what_the_reference_says(folder: Path) -> None:
    booted = boot(folder, GpuOperations(InterpretingLauncher(), 132, shape=SHAPE))
    assert said(booted) == said(boot(folder, ReferenceOperations()))
    assert "plain torch for attention" in booted.plan.kernels
    assert booted.plan.graph_sizes == (), "the reference's attention cannot be recorded"
