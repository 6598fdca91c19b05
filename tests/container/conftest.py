"""One image for all tests, built as a user builds it.

Its base is a Debian made here, so that no registry is needed, unless PILOTLIGHT_TEST_BASE names another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.container.package_index import pip_volumes
from tests.container.podman import Container, Podman, await_ready, published, what_is_missing

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/pilotlight:test"
DEBIAN = "localhost/pilotlight-test-base:bookworm"
BUILD_S = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.timeout(BUILD_S))


@dataclass(frozen=True)
class Build:
    """What the image was built with, to build others alike."""

    base: str
    volumes: list[str]


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    reason = what_is_missing()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="session")
def build(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Build:
    base = os.environ.get("PILOTLIGHT_TEST_BASE", DEBIAN)
    if base == DEBIAN and not podman.exists(DEBIAN):
        podman.import_debian(DEBIAN, tmp_path_factory.mktemp("debian"))
    return Build(base, pip_volumes(tmp_path_factory.mktemp("pip")))


@pytest.fixture(scope="session")
def image(podman: Podman, build: Build) -> str:
    podman.build(IMAGE, ROOT, build.base, build.volumes)
    return IMAGE


@dataclass(frozen=True)
class Served:
    """A container that serves over HTTP."""

    container: Container
    url: str


@pytest.fixture(scope="session")
def served(podman: Podman, image: str) -> Iterator[Served]:
    """The container as `docker run --read-only -p` starts it, ready."""
    option, url = published()
    with podman.running(image, "--read-only", option) as container:
        await_ready(url)
        yield Served(container, url)
