"""A day in the engine's life: the demo model counts for requests of every kind, that come and go as they like."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from engine.boot import Booted
from engine.engine import new_requests
from engine.request import Event, FinishReason, Request, SamplingParams
from image.demo_tasks import counting

_orders = itertools.count()


def ask(booted: Booted, first: int, last: int, name: str, **params: Any) -> Request:
    """Have the model count."""
    model = booted.model
    assert model.chat_template is not None
    messages = [{"role": "user", "content": counting(first, last).prompt}]
    prompt = model.tokenizer.encode(model.chat_template.render(messages), add_special_tokens=False)
    sampling = SamplingParams(**{"temperature": 0, "max_tokens": 60, **params})
    (request,) = new_requests(
        prompt, sampling, request_id=name, order=_orders.__next__, max_model_len=booted.plan.max_model_len,
        vocab_size=model.vocab_size,
    )
    booted.core.add(request)
    return request


WISHES: list[dict[str, Any]] = [
    {}, {"temperature": 1.0, "seed": 5}, {"temperature": 1.5, "top_p": 0.9, "seed": 6}, {"logprobs": 3},
    {"temperature": 1.2, "top_k": 4, "seed": 2**64 + 7}, {"presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"temperature": 2.0, "min_p": 0.05, "seed": 8, "logprobs": 0}, {"logit_bias": {30: 4.0}, "min_tokens": 20},
    {"temperature": 0.8, "seed": 1, "repetition_penalty": 1.3}, {"min_tokens": 45, "ignore_eos": True},
]

Told = dict[str, list[tuple[tuple[int, ...], tuple[Any, ...], FinishReason | None]]]


def tell(events: Sequence[Event], told: Told) -> None:
    """Write down all that was said to each request, to the last bit of a log probability."""
    for event in events:
        line = (event.token_ids, event.logprobs, event.finish.reason if event.finish else None)
        told.setdefault(event.request_id, []).append(line)


def busy_day(booted: Booted) -> Told:
    """Requests of every kind that come one after the other, some of whom leave early."""
    core, told = booted.core, Told()
    coming = [(2 * number, number) for number in range(16)]
    step = 0
    while coming or core.has_work:
        while coming and coming[0][0] <= step:
            number = coming.pop(0)[1]
            ask(booted, 3 * number, 3 * number + 6 + number % 5, str(number), **WISHES[number % len(WISHES)])
        if step in (9, 21):
            tell(core.abort(str(step // 3)), told)
        tell(core.step(), told)
        step += 1
    return told
