"""Weights rounded as they are loaded: the demo model still knows what it learnt, and says what it runs on."""

from __future__ import annotations

import pytest
import torch

from engine.config import EngineConfig
from engine.errors import InvalidConfig
from engine.llm import LLM
from engine.request import SamplingParams
from image.demo_tasks import counting
from kernels.cpu.library import Unavailable, load

GREEDY = SamplingParams(temperature=0, max_tokens=80)


@pytest.fixture(scope="module")
def rounded() -> LLM:
    if isinstance(load(), Unavailable):
        pytest.skip("int8 needs the C++ kernels")
    return LLM("demo", device="cpu", quantize="int8")


def test_the_plan_says_that_weights_are_rounded(rounded: LLM) -> None:
    assert "int8" in rounded.booted.plan.kernels


def test_rounded_weights_count_as_whole_ones_do(rounded: LLM) -> None:
    tasks = [counting(first, first + 7) for first in range(0, 90, 2)]
    answers = rounded.chat([[{"role": "user", "content": task.prompt}] for task in tasks], GREEDY)
    right = sum(answer.outputs[0].text == task.answer for answer, task in zip(answers, tasks, strict=True))
    assert right >= 0.95 * len(tasks)


def test_rounding_changes_logits_a_little(rounded: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    whole = LLM("demo", device="cpu").generate("Count from 3 to", params)[0].outputs[0].logprobs[0]
    other = rounded.generate("Count from 3 to", params)[0].outputs[0].logprobs[0]
    ours, theirs = torch.tensor([whole.logprob, other.logprob])
    assert ours != theirs
    torch.testing.assert_close(ours, theirs, atol=0.2, rtol=0)


def test_another_rounding_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="none or int8"):
        EngineConfig(quantize="int3")  # type: ignore[arg-type]
