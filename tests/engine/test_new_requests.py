"""What a request may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine.engine import new_requests
from engine.errors import ContextExceeded, InvalidRequest
from engine.request import Request, SamplingParams
from tests.engine.stubs import (
    plain,
)


def make(prompt: Sequence[int], params: SamplingParams, max_model_len: int = 16) -> list[Request]:
    return new_requests(
        prompt, params, request_id="a", order=iter(range(999)).__next__, max_model_len=max_model_len, vocab_size=1000
    )


def test_max_tokens_is_cut_to_the_context() -> None:
    assert make([1] * 10, plain(max_tokens=100))[0].max_total == 16
    assert make([1] * 10, plain(max_tokens=None))[0].max_total == 16
    assert make([1] * 10, plain(max_tokens=2))[0].max_total == 12


def test_a_prompt_that_leaves_room_for_one_token_is_taken() -> None:
    assert make([1] * 15, plain())[0].max_total == 16
    with pytest.raises(ContextExceeded, match="16 tokens; the context holds 16"):
        make([1] * 16, plain())


def test_choices_have_one_seed_and_one_leader() -> None:
    first, *others = make([1], plain(n=3))
    assert first.leader is None
    assert all(other.leader is first and other.seed == first.seed for other in others)
    assert make([1], plain(seed=7))[0].seed == 7
    assert make([1], plain())[0].seed != make([1], plain())[0].seed


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], plain(), "prompt"),
        ([1000], plain(), "prompt"),
        ([-1], plain(), "prompt"),
        ([1], plain(logit_bias={1000: 1.0}), "logit_bias"),
        ([1], plain(logit_bias={-1: 1.0}), "logit_bias"),
        ([1], plain(stop_token_ids=(1000,)), "stop_token_ids"),
        ([1], plain(stop_token_ids=(-1,)), "stop_token_ids"),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(prompt: list[int], params: SamplingParams, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        make(prompt, params)
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 129), ("temperature", -1), ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1),
        ("top_k", -2), ("min_p", 1.5), ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0),
        ("max_tokens", 0), ("min_tokens", -1), ("min_tokens", 17), ("stop", ("",)), ("logprobs", 65),
        ("prompt_logprobs", -1), ("logit_bias", {1: float("inf")}),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} ") as raised:
        SamplingParams(**{field: value})
    assert raised.value.param == field
