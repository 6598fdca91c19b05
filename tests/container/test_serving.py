"""The container as an HTTP server: `docker run -p 8000:8000 pilotlight`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.container.conftest import Served
from tests.container.podman import Podman, await_ready, published, status_of
from tests.handler.processes import eventually

COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 3 to 7."}]
COUNTED = "3 4 5 6 7"
LONG_TOKENS = 400


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_openais_client_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=COUNT, temperature=0)
    assert answer.choices[0].message.content == COUNTED


def test_openais_client_is_streamed_to(client: OpenAI) -> None:
    stream = client.chat.completions.create(model="demo", messages=COUNT, temperature=0, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == COUNTED
    assert len(pieces) > len(COUNTED.split())


def test_the_root_file_system_is_read_only(served: Served) -> None:
    served.container.execute("sh", "-c", "! touch /home/pilotlight/file")
    assert status_of(f"{served.url}/ping") == httpx.codes.OK


def test_the_health_check_passes_once_it_serves(podman: Podman, image: str) -> None:
    with podman.running(image, command=("sleep", "100")) as container:
        assert container.health() != 0, "it does not serve"
    option, url = published()
    with podman.running(image, option) as container:
        await_ready(url)
        assert container.health() == 0


def test_stop_lets_the_running_request_finish(podman: Podman, image: str) -> None:
    option, url = published()
    with podman.running(image, option) as container:
        await_ready(url)
        lines: list[str] = []
        asking = threading.Thread(target=stream_into, args=(lines, url))
        asking.start()
        assert eventually(lambda: lines)
        status = container.stop()
        asking.join()
    assert status == 0, "not killed"
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == LONG_TOKENS


def stream_into(lines: list[str], url: str) -> None:
    body = {
        "model": "demo", "messages": COUNT, "max_tokens": LONG_TOKENS, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines.extend(line.removeprefix("data: ") for line in answer.iter_lines() if line)


def test_stop_during_the_boot_ends_at_once(podman: Podman, image: str) -> None:
    with podman.running(image) as container:
        status = container.stop()
    assert status in (0, 143), "not killed"


def test_time_to_the_first_token(podman: Podman, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = sorted(first_token(podman, image) for _ in range(3))
    with capsys.disabled():
        print("\nfrom `podman run` to the first token over HTTP, in s:", *(f"{value:.2f}" for value in seconds))


def first_token(podman: Podman, image: str) -> float:
    """Seconds from `podman run` until a client that keeps asking reads the first text of a stream."""
    option, url = published()
    begun = time.monotonic()
    with podman.running(image, option):
        end = eventually(lambda: first_text(url))
        assert end
        return end - begun


def first_text(url: str) -> float | None:
    """When a stream's first text came; None if it was not served."""
    body = {"model": "demo", "messages": COUNT, "stream": True}
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            return next((time.monotonic() for line in answer.iter_lines() if '"content":"3' in line), None)
    except httpx.TransportError:
        return None
