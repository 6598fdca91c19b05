"""One server for all tests that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.handler.brake import Brake
from tests.handler.processes import Server, serving

KEY, OTHER_KEY = "first-key", "second-key"


@pytest.fixture(scope="session")
def brake(tmp_path_factory: pytest.TempPathFactory) -> Brake:
    """Of the server that tests share."""
    return Brake(tmp_path_factory.mktemp("brake"))


@pytest.fixture(scope="session")
def server(brake: Brake) -> Iterator[Server]:
    """A server that is ready, and knows two keys."""
    with serving(api_key=f"{KEY},{OTHER_KEY}", max_choices="16", more=brake.environment) as started:
        started.await_ready()
        yield started


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client that shows its key."""
    with server.client(KEY) as client:
        yield client


@pytest.fixture(scope="session")
def openai(server: Server) -> Iterator[OpenAI]:
    """The real OpenAI client."""
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
