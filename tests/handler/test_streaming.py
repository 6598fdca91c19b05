"""What is streamed adds up to what is not: text, tool calls, log probabilities, reasons and usage."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

PROMPTS = ["Count from 3 to 7.", "Reverse: red blue", "What is 12 + 30?", "Fill JSON: name=Ada, age=36", "Olé ☃ 漢字"]
VARIANTS: list[dict[str, object]] = [
    {},
    {"logprobs": True, "top_logprobs": 3},
    {"stop": ["5 6", "l"], "n": 2},
    {"temperature": 1.5, "seed": 7, "n": 3, "max_tokens": 25},
    {"max_tokens": 3, "include_stop_str_in_output": True, "stop": "4"},
    {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": 12},
]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]


def chunks_of(http: httpx.Client, path: str, body: dict[str, object]) -> Iterator[dict[str, Any]]:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    lines = [line for line in http.post(path, json=body).text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return (json.loads(line.removeprefix("data: ")) for line in lines[:-1])


def added_up(chunks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The deltas, put together in the plainest way."""
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in chunks:
        assert usage is None, "the usage is last"
        usage = chunk["usage"]
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"text": "", "calls": [], "tokens": [], "reason": None})
            assert choice["reason"] is None, "nothing comes after the reason"
            delta = part.get("delta", {"content": part.get("text")})
            choice["text"] += delta.get("content") or ""
            choice["calls"] += [call["function"] for call in delta.get("tool_calls", [])]
            choice["tokens"] += tokens_of(part)
            choice["reason"] = part["finish_reason"]
    return {"choices": choices, "usage": counts(usage)}


def whole(answer: dict[str, Any]) -> dict[str, Any]:
    choices = {}
    for choice in answer["choices"]:
        message = choice.get("message", {"content": choice.get("text")})
        choices[choice["index"]] = {
            "text": message["content"] or "", "calls": [call["function"] for call in message.get("tool_calls", [])],
            "tokens": tokens_of(choice), "reason": choice["finish_reason"],
        }
    return {"choices": choices, "usage": counts(answer["usage"])}


def tokens_of(choice: dict[str, Any]) -> list[Any]:
    logprobs = choice["logprobs"]
    if logprobs is None:
        return []
    if "content" in logprobs:
        return [(token["token"], round(token["logprob"], 3)) for token in logprobs["content"]]
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"], strict=True)
    return [(token, value if value is None else round(value, 3), offset) for token, value, offset in rows]


def counts(usage: dict[str, Any] | None) -> dict[str, int]:
    """The usage without what depends on the requests before."""
    assert usage is not None
    return {name: count for name, count in usage.items() if name != "prompt_tokens_details"}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_chats(http: httpx.Client, variant: dict[str, object]) -> None:
    for prompt in PROMPTS:
        body = {"messages": [{"role": "user", "content": prompt}], **variant}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert added_up(chunks_of(http, "/v1/chat/completions", body)) == whole(answer)


@pytest.mark.parametrize("variant", [{}, {"echo": True, "logprobs": 2}, {"n": 2, "seed": 3, "temperature": 1}], ids=str)
def test_completions_of_several_prompts(http: httpx.Client, variant: dict[str, object]) -> None:
    body = {"prompt": PROMPTS, "max_tokens": 8, **variant}
    answer = http.post("/v1/completions", json=body).json()
    assert added_up(chunks_of(http, "/v1/completions", body)) == whole(answer)


def test_tool_calls(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    body: dict[str, object] = {"messages": messages, "tools": TOOLS}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert added_up(chunks_of(http, "/v1/chat/completions", body)) == whole(answer)


def test_usage_is_only_sent_when_asked_for(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": PROMPTS[0]}], "stream": True}
    text = http.post("/v1/chat/completions", json=body).text
    assert "usage" not in text
    assert '"choices":[]' not in text
