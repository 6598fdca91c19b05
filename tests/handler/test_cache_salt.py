"""Callers share cached prefixes with nobody but themselves."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.handler.conftest import OTHER_KEY
from tests.handler.processes import Server

PROMPT = list(range(200, 296))


@pytest.fixture
def stranger(server: Server) -> Iterator[httpx.Client]:
    with server.client(OTHER_KEY) as client:
        yield client


def cached(http: httpx.Client, **fields: object) -> int:
    answer = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 1, **fields})
    tokens: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return tokens


def test_a_key_shares_with_itself_alone(http: httpx.Client, stranger: httpx.Client) -> None:
    assert cached(http) == 0
    assert cached(http) > 0
    assert cached(stranger) == 0
    assert cached(stranger) > 0


def test_a_salt_divides_one_keys_callers_too(http: httpx.Client, stranger: httpx.Client) -> None:
    assert cached(http, cache_salt="a") == 0
    assert cached(http, cache_salt="b") == 0
    assert cached(http, cache_salt="a") > 0
    assert cached(stranger, cache_salt="a") == 0
