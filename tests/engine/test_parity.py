"""The same tokens as transformers, in every family, alone and in any company."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from engine.llm import LLM, CompletionOutput
from engine.request import SamplingParams
from tests.engine.families import FAMILIES, Family, make_folder, reference_model

TOKENS = 64
TIE = 1e-4
"""Best two logits closer than this may change places when the batch's shape changes the rounding."""


def prompts_for(seed: int, count: int, vocabulary: int, longest: int = 90) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(vocabulary) for _ in range(draw.randint(2, longest))] for _ in range(count)]


def greedy(**more: object) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False, **more)  # type: ignore[arg-type]


def continue_with(model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    with torch.inference_mode():
        out = model.generate(  # type: ignore[operator]  # transformers types its method as a tensor
            torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return out[0, len(prompt) :].tolist()


def logits_of(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float()


def assert_same_up_to_a_tie(model: PreTrainedModel, prompt: list[int], ours: list[int], theirs: list[int]) -> None:
    for step, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
        if mine != yours:
            best = logits_of(model, prompt + theirs[:step])[-1].topk(2).values
            assert best[0] - best[1] < TIE, f"token {step} is {mine}, not {yours}, and it was no tie"
            return


def assert_among_the_top(model: PreTrainedModel, prompt: list[int], ours: CompletionOutput, theirs: list[int]) -> None:
    """The top-N rule: at the first difference each side's token is among the other's five best."""
    for step, (mine, yours) in enumerate(zip(ours.token_ids, theirs, strict=True)):
        if mine != yours:
            their_top = logits_of(model, prompt + theirs[:step])[-1].topk(5).indices.tolist()
            assert mine in their_top
            assert yours in [token for token, _ in ours.logprobs[step].top]
            return


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(family, tmp_path_factory.mktemp(family.name))


@pytest.fixture(scope="module")
def reference(folder: Path) -> PreTrainedModel:
    return reference_model(folder)


@pytest.fixture(scope="module")
def prompts(reference: PreTrainedModel) -> list[list[int]]:
    return prompts_for(1, 5, reference.config.vocab_size)


@pytest.fixture(scope="module")
def expected(reference: PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    return [continue_with(reference, prompt) for prompt in prompts]


def test_greedy_tokens_equal_transformers_at_float32(
    folder: Path, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    llm = LLM(str(folder), device="cpu", dtype="float32", prefix_caching=False)
    alone = [llm.generate([prompt], greedy())[0].outputs[0].token_ids for prompt in prompts]
    assert alone == expected


def test_prompt_logprobs_equal_transformers_at_float32(
    folder: Path, reference: PreTrainedModel, prompts: list[list[int]]
) -> None:
    llm = LLM(str(folder), device="cpu", dtype="float32", token_budget=32, max_running=4)
    answers = llm.generate(prompts, greedy(prompt_logprobs=3))
    for prompt, answer in zip(prompts, answers, strict=True):
        wanted = logits_of(reference, prompt).log_softmax(-1)
        assert answer.prompt_logprobs is not None
        assert answer.prompt_logprobs[0] is None
        assert len(answer.prompt_logprobs) == len(prompt)
        for position, found in enumerate(answer.prompt_logprobs[1:]):
            assert found is not None
            assert found.token_id == prompt[position + 1]
            assert found.logprob == pytest.approx(float(wanted[position, found.token_id]), abs=1e-3)
            assert [pair[0] for pair in found.top] == wanted[position].topk(3).indices.tolist()


@pytest.mark.parametrize(
    ("circumstance", "settings"),
    [
        ("mixed batches", {}),
        ("chunked prefill", {"token_budget": 11, "max_running": 8}),
        ("one request at a time", {"max_running": 1, "token_budget": 4096}),
        ("pages of one token", {"page_size": 1}),
        ("no prefix cache", {"prefix_caching": False}),
    ],
)
def test_company_changes_no_token(
    circumstance: str, settings: dict[str, Any], folder: Path, reference: PreTrainedModel, prompts: list[list[int]],
    expected: list[list[int]],
) -> None:
    llm = LLM(str(folder), device="cpu", dtype="float32", **settings)
    for prompt, answer, theirs in zip(prompts, llm.generate(prompts, greedy()), expected, strict=True):
        assert_same_up_to_a_tie(reference, prompt, answer.outputs[0].token_ids, theirs)


def test_preemption_changes_no_token(
    folder: Path, reference: PreTrainedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    page_bytes = LLM(str(folder), device="cpu", dtype="float32", page_size=4).booted.plan.page_bytes
    pages = -(-(max(map(len, prompts)) + TOKENS) // 4) + 12
    llm = LLM(
        str(folder), device="cpu", dtype="float32", page_size=4, kv_memory=pages * page_bytes, token_budget=64,
        max_running=8,
    )
    answers = llm.generate(prompts, greedy())
    assert llm.booted.core.scheduler.preemptions > 0
    for prompt, answer, theirs in zip(prompts, answers, expected, strict=True):
        assert_same_up_to_a_tie(reference, prompt, answer.outputs[0].token_ids, theirs)


def test_a_cached_prefix_changes_no_token(
    folder: Path, reference: PreTrainedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    llm = LLM(str(folder), device="cpu", dtype="float32", page_size=4)
    llm.generate(prompts, greedy())
    again = llm.generate(prompts, greedy())
    for prompt, answer, theirs in zip(prompts, again, expected, strict=True):
        finish = answer.outputs[0].finish
        assert finish is not None
        assert finish.cached_tokens == (len(prompt) - 1) // 4 * 4
        assert_same_up_to_a_tie(reference, prompt, answer.outputs[0].token_ids, theirs)


def test_tokens_follow_the_top_n_rule_at_bfloat16(family: Family, tmp_path: Path) -> None:
    folder = make_folder(family, tmp_path, torch.bfloat16)
    reference = reference_model(folder, torch.bfloat16)
    prompts = prompts_for(2, 6, reference.config.vocab_size)
    llm = LLM(str(folder), device="cpu", dtype="bfloat16", page_size=4, token_budget=40, max_running=8)
    for prompt, answer in zip(prompts, llm.generate(prompts, greedy(logprobs=5)), strict=True):
        assert_among_the_top(reference, prompt, answer.outputs[0], continue_with(reference, prompt))
