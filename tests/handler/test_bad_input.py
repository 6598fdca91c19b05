"""What is wrong with a request is said in OpenAI's shape, naming the cause; the server lives on."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import unquote

import httpx
import pytest

from tests.handler.processes import Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
TOOL = {"type": "function", "function": {"name": "f"}}


class Bad(NamedTuple):
    """A request, and what its error must say."""

    path: str
    body: object
    status: int
    names: str
    param: str | None


def chat(status: int, names: str, param: str | None, **fields: object) -> Bad:
    return Bad(CHAT, {"messages": MESSAGES, **fields}, status, names, param)


def completion(status: int, names: str, param: str | None, **fields: object) -> Bad:
    return Bad(COMPLETIONS, {"prompt": "a", **fields}, status, names, param)


BAD = [
    Bad(CHAT, b'{"messages": [', 400, "not valid JSON", None),
    Bad(CHAT, b"", 400, "JSON object", None),
    Bad(CHAT, b"[]", 400, "JSON object", None),
    Bad(CHAT, b'{"messages": "\xff\xfe"}', 400, "UTF-8", None),
    Bad(CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "Unicode", "messages"),
    Bad(COMPLETIONS, b'{"prompt": "\\ud800"}', 400, "Unicode", "prompt"),
    Bad(CHAT, {}, 400, "messages", "messages"),
    Bad(CHAT, {"messages": []}, 400, "messages", "messages"),
    Bad(CHAT, {"messages": "hi"}, 400, "messages", "messages"),
    Bad(CHAT, {"messages": [{"content": "hi"}]}, 400, "role", "messages"),
    Bad(CHAT, {"messages": [{"role": "robot", "content": "hi"}]}, 400, "Unknown role", "messages"),
    Bad(CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url", "messages"),
    chat(404, "'other' does not exist", "model", model="other"),
    chat(400, "frobnicate", "frobnicate", frobnicate=1),
    chat(400, "reasoning_effort", "reasoning_effort", reasoning_effort="low"),
    chat(400, "stream_options.continuous", "stream_options.continuous", stream=True, stream_options={"continuous": 1}),
    chat(400, "stream_options needs stream", "stream_options", stream_options={"include_usage": True}),
    chat(400, "response_format", "response_format", response_format={"type": "json_object"}),
    chat(400, "tool_choice", "tool_choice", tools=[TOOL], tool_choice="required"),
    chat(400, "tools", "tools", tools=[{"type": "web_search"}]),
    chat(400, "max_tokens", "max_tokens", max_tokens=-1),
    chat(400, "max_tokens", "max_tokens", max_tokens=0),
    chat(400, "max_tokens", "max_tokens", max_tokens="5"),
    chat(400, "max_tokens", "max_tokens", max_tokens=1.5),
    chat(400, "max_tokens", "max_tokens", max_tokens=True),
    chat(400, "the context holds 2048", "max_tokens", max_tokens=2048),
    chat(400, "differ", "max_tokens", max_tokens=5, max_completion_tokens=6),
    chat(400, "temperature", "temperature", temperature=-0.1),
    Bad(CHAT, b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400, "finite", "temperature"),
    chat(400, "top_p", "top_p", top_p=0),
    chat(400, "top_k", "top_k", top_k=-2),
    chat(400, "min_p", "min_p", min_p=2),
    chat(400, "presence_penalty", "presence_penalty", presence_penalty=3),
    chat(400, "repetition_penalty", "repetition_penalty", repetition_penalty=0),
    chat(400, "n: ", "n", n=0),
    chat(400, "n: 17 choices", "n", n=17),
    chat(400, "seed", "seed", seed=2**63),
    chat(400, "stop", "stop", stop=""),
    chat(400, "stop", "stop", stop=[1]),
    chat(400, "token id", "stop_token_ids", stop_token_ids=[10**9]),
    chat(400, "logit_bias", "logit_bias", logit_bias={"x": 1}),
    chat(400, "logit_bias", "logit_bias", logit_bias={"9" * 5000: 1}),
    chat(400, "token id 999999", "logit_bias", logit_bias={"999999": 1}),
    Bad(CHAT, b"[" * 100_000, 400, "JSON", None),
    Bad(CHAT, b'{"messages": ' + b"9" * 10_000 + b"}", 400, "JSON", None),
    chat(400, "top_logprobs", "top_logprobs", logprobs=True, top_logprobs=21),
    chat(400, "top_logprobs needs logprobs", "top_logprobs", top_logprobs=1),
    chat(400, "min_tokens", "min_tokens", max_tokens=2, min_tokens=3),
    chat(400, "messages", "chat_template_kwargs", chat_template_kwargs={"messages": []}),
    chat(400, "self", "chat_template_kwargs", chat_template_kwargs={"self": 1}),
    chat(400, "exclude each other", "continue_final_message", continue_final_message=True, add_generation_prompt=True),
    Bad(CHAT, {"messages": [{"role": "user", "content": "many words " * 3000}]}, 400, "the context holds", "prompt"),
    Bad(COMPLETIONS, {}, 400, "prompt", "prompt"),
    completion(400, "prompt", "prompt", prompt=[]),
    completion(400, "prompt.ids.2", "prompt", prompt=[1, 1, "x"]),
    completion(400, "prompt.texts.1", "prompt", prompt=["a", 1]),
    completion(400, "characters are more than 2048 tokens can hold", "prompt", prompt=" a b" * 500_000),
    completion(400, "1025 tokens", "logit_bias", logit_bias={str(token): 1 for token in range(1025)}),
    Bad(CHAT, b'{"messages": [{"role": "\\ud800", "content": "x"}]}', 400, "Unknown role", "messages"),
    completion(400, "prompt", "prompt", prompt=[[]]),
    completion(400, "prompt", "prompt", prompt={"a": 1}),
    completion(400, "token id 99999", "prompt", prompt=[99999]),
    completion(400, "prompt", "prompt", prompt=[-1]),
    completion(400, "suffix", "suffix", suffix="b"),
    completion(400, "best_of", "best_of", best_of=2),
    completion(400, "logprobs", "logprobs", logprobs=21),
    completion(400, "n: 20 choices", "n", prompt=["a"] * 10, n=2),
    Bad("/v1/embeddings", {"input": "a"}, 404, "/v1/embeddings", None),
]


def post(http: httpx.Client, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.names} {str(bad.body)[-40:]}")
def test_is_refused_by_name(http: httpx.Client, bad: Bad) -> None:
    answer = post(http, bad.path, bad.body)
    assert answer.status_code == bad.status, answer.text
    error = error_of(answer)
    assert bad.names in error["message"]
    assert error["param"] == bad.param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", ["%09", "a%0Ab", "a%3Fb", "%25"])
def test_error_on_runpods_routes_is_text_whatever_the_job_is_called(http: httpx.Client, name: str) -> None:
    answer = http.post(f"/v2/local/cancel/{name}")
    assert (answer.status_code, answer.json()) == (404, {"error": f"there is no job {unquote(name)}"})


def test_leaves_the_server_well(http: httpx.Client, server: Server) -> None:
    for bad in BAD:
        post(http, bad.path, bad.body)
    answer = post(http, CHAT, {"messages": MESSAGES}).json()
    assert answer["choices"][0]["message"]["content"] == "3 4 5 6 7"
    assert server.statistics()["running"] == 0


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "first-ke"])
def test_key_is_asked_for(server: Server, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    with server.client() as client:
        for path in ("/v1/models", "/v2/local/openai/v1/models", "/status/x"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "first-key" not in answer.text
        error = error_of(client.get("/v1/models", headers=headers))
        assert error["code"] == "invalid_api_key"
        for path in ("/ping", "/health", "/metrics", "/", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_body_is_bounded(http: httpx.Client) -> None:
    large = b'{"prompt": "' + b"a" * 11_000_000 + b'"}'
    assert error_of(post(http, COMPLETIONS, large))["code"] == "body_too_large"
    chunked = http.post(COMPLETIONS, content=(large[i : i + 1_000_000] for i in range(0, len(large), 1_000_000)))
    assert chunked.status_code == 413
    assert error_of(chunked)["code"] == "body_too_large"


def test_millions_of_items_of_which_the_last_is_wrong_are_one_error(http: httpx.Client) -> None:
    body = b'{"prompt": [' + b"1," * 4_900_000 + b'"x"]}'
    assert error_of(post(http, COMPLETIONS, body))["message"].startswith("prompt.ids.4900000: ")


def test_half_a_surrogate_pair_in_a_role_fails_the_job_with_its_cause(http: httpx.Client) -> None:
    body = b'{"input": {"messages": [{"role": "\\ud800", "content": "x"}]}}'
    job = post(http, "/runsync", body).json()
    assert job["status"] == "FAILED"
    assert "Unknown role: \\\\ud800" in job["error"]


def test_method_that_is_not_allowed(http: httpx.Client) -> None:
    answer = http.get(CHAT)
    assert answer.status_code == 405
    assert error_of(answer)["type"] == "invalid_request_error"


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
