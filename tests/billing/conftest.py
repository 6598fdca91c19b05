"""S3 servers, each started once, and a bucket of its own for each test."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from handler.billing.bucket import BucketStore
from handler.billing.folder_store import FolderStore
from tests.billing.faulty_s3 import FaultyS3
from tests.billing.servers import MAKES, NotToBeHad, S3Server, running

StartServer = Callable[[str], S3Server]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Starts a server of a make, the first time it is asked for. Where that cannot be had tests skip, but in CI."""
    started: dict[str, S3Server] = {}

    def start(name: str) -> S3Server:
        if name not in started:
            try:
                started[name] = stack.enter_context(running(MAKES[name], tmp_path_factory.mktemp(name)))
            except NotToBeHad as error:
                if os.environ.get("CI") == "true":
                    raise
                pytest.skip(f"{name}: {error}")
        return started[name]

    with contextlib.ExitStack() as stack:
        yield start


@pytest.fixture(params=list(MAKES))
def server(request: pytest.FixtureRequest, start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Each of the servers in turn, named by the environment."""
    return use(start_server(request.param), monkeypatch)


@pytest.fixture
def moto(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server that does most as AWS does."""
    return use(start_server("moto"), monkeypatch)


@pytest.fixture
def faulty(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The same behind a proxy that can be told to fail; the environment names the proxy."""
    proxy = FaultyS3(moto.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where journals are."""
    return tmp_path / "journal"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """A folder as the ledger."""
    return FolderStore(tmp_path / "ledger")


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in [name for name in os.environ if name.startswith(("AWS_", "BUCKET_"))]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def new_bucket() -> BucketStore:
    """An empty bucket on the server that the environment names."""
    name = f"bucket-{secrets.token_hex(4)}"
    store = BucketStore(name, "the ledger/üß")
    store._client.create_bucket(Bucket=name)
    return store
