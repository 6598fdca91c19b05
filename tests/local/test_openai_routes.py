"""OpenAI's own client, through the queue, to a real worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.handler.brake import Brake
from tests.handler.processes import eventually
from tests.local.endpoint import LocalEndpoint
from tests.local.test_client_routes import COUNTED, MESSAGES

CHAT = {"model": "demo", "messages": MESSAGES}
PATH = "/openai/v1/chat/completions"


@pytest.fixture(scope="module")
def client(served: LocalEndpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v2/local/openai/v1", api_key="any", max_retries=0) as opened:
        yield opened


@pytest.fixture
def http(endpoint: LocalEndpoint) -> Iterator[httpx.Client]:
    with endpoint.client() as opened:
        yield opened


def test_chat(client: Any) -> None:
    answer = client.chat.completions.create(model="demo", messages=MESSAGES)
    assert answer.choices[0].message.content == COUNTED
    assert answer.usage.completion_tokens == 6


def test_streamed_chat(client: Any) -> None:
    chunks = client.chat.completions.create(model="demo", messages=MESSAGES, stream=True)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == COUNTED
    assert len(texts) > 1


def test_completion_and_models(client: Any) -> None:
    assert client.completions.create(model="demo", prompt="Count", max_tokens=1).choices[0].text
    assert [model.id for model in client.models.list().data] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


@pytest.mark.parametrize("stream", [False, True])
def test_a_workers_error_has_its_own_status(client: Any, stream: bool) -> None:
    ask = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="temperature") as refused:
        ask(model="demo", messages=MESSAGES, temperature=-1, stream=stream)
    assert (refused.value.param, refused.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="nope"):
        ask(model="nope", messages=MESSAGES, stream=stream)


def test_a_client_that_leaves_cancels_its_job(client: Any, served: LocalEndpoint, brake: Brake) -> None:
    with brake.held():
        stream = client.chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, max_tokens=2000, extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        assert served.queue.counts().in_progress == 1
        stream.close()
        assert eventually(lambda: served.queue.counts().in_progress == 0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("not JSON at all", 500),
        ('{"message": "m", "type": "server_error", "code": "timeout"}', 504),
        ('{"message": "m", "type": "server_error", "code": null}', 500),
        ('{"message": "m", "type": "rate_limit_error", "code": "queue_full"}', 429),
        ('{"error_type": "KeyError", "error_message": "m"}', 500),
    ],
)
def test_statuses_of_errors(endpoint: LocalEndpoint, http: httpx.Client, error: str, status: int) -> None:
    answer = answering(http, lambda: fail_next(endpoint, error))
    assert answer.status_code == status
    assert answer.json()["error"]["message"] in (error, "m")


def fail_next(endpoint: LocalEndpoint, error: str) -> None:
    endpoint.worker().done(endpoint.worker().await_job()["id"], error=error)


def answering(
    http: httpx.Client, work: Callable[[], None], **body: object
) -> httpx.Response:
    thread = threading.Thread(target=work)
    thread.start()
    answer = http.post(PATH, json=CHAT | body)
    thread.join()
    return answer


def test_a_stream_that_fails_in_the_middle_says_so(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    def fail() -> None:
        worker = endpoint.worker()
        job = worker.await_job()
        assert job["input"] == {"openai_route": "/v1/chat/completions", "openai_input": {**CHAT, "stream": True}}
        worker.stream(job["id"], 'data: {"n": 1}\n\n')
        worker.done(job["id"], error="broken")

    answer = answering(http, fail, stream=True)
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert events[0] == {"n": 1}
    assert events[1]["error"]["message"] == "broken"
    assert len(events) == 2


def test_a_stream_whose_worker_is_lost_ends_with_an_error(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    def begin() -> None:
        worker = endpoint.worker("lost")
        worker.stream(worker.await_job()["id"], 'data: {"n": 1}\n\n')

    beginning = threading.Thread(target=begin)
    beginning.start()
    with http.stream("POST", PATH, json={**CHAT, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert next(lines) == 'data: {"n": 1}'
        endpoint.on_loop(lambda: endpoint.queue.worker_lost("lost"))
        assert "the worker was lost" in "".join(lines)
    beginning.join()
    assert eventually(lambda: endpoint.queue.counts().in_queue == 0), "nobody would read what another worker says"


def test_a_worker_lost_before_the_first_word_goes_unnoticed(endpoint: LocalEndpoint, http: httpx.Client) -> None:
    def vanish_and_answer() -> None:
        endpoint.worker("brief").await_job()
        endpoint.on_loop(lambda: endpoint.queue.worker_lost("brief"))
        worker = endpoint.worker("steady")
        job = worker.await_job()
        worker.stream(job["id"], "data: [DONE]\n\n")
        worker.done(job["id"], output=[])

    assert answering(http, vanish_and_answer, stream=True).text == "data: [DONE]\n\n"


@pytest.mark.parametrize("text", ["[]", "{", "5"])
def test_a_body_that_is_no_object_is_refused_in_openais_shape(http: httpx.Client, text: str) -> None:
    answer = http.post(PATH, content=text)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
