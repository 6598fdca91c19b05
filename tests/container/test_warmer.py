"""The warmer's own image: small, without torch, and it keeps an endpoint warm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.container.conftest import ROOT, Build
from tests.container.podman import Podman
from tests.handler.processes import eventually
from tests.local.up_process import up

WARMER = "localhost/pilotlight-warmer:test"
MOST_BYTES = 150_000_000
"""Beside the base image: a Python with numpy and an S3 client."""


@pytest.fixture(scope="module")
def warmer(podman: Podman, build: Build) -> str:
    podman.build(WARMER, ROOT, build.base, build.volumes, target="warmer")
    return WARMER


def test_it_is_small_and_has_no_torch(
    podman: Podman, warmer: str, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    own = podman.inspect(warmer)["Size"] - podman.inspect(build.base)["Size"]
    with capsys.disabled():
        print(f"\n{own / 1e6:.1f} MB beside the base image")
    assert own < MOST_BYTES
    found = podman("run", "--rm", "--entrypoint", "python", warmer, "-c", "import torch", check=False)
    assert "No module named 'torch'" in found.stderr
    assert podman.inspect(warmer)["Config"]["User"] == "1000:1000"


def test_it_keeps_an_endpoint_warm_and_puts_back_what_it_set(podman: Podman, warmer: str) -> None:
    with up("--workers-max", "1", "--gpu-price", "0.0003") as endpoint:
        base = f"{endpoint.url}/v2"
        variables = {
            "RUNPOD_ENDPOINT_ID": "local", "RUNPOD_API_KEY": "none", "PILOTLIGHT_RUNPOD_API": base,
            "RUNPOD_ENDPOINT_BASE_URL": base, "PILOTLIGHT_WARM_PRICE": "0.0003", "PILOTLIGHT_WARM_TICK": "1",
        }
        options, command = ("--network=host", "--read-only"), ("run", "--policy", "always")
        with podman.running(warmer, *options, command=command, environment=variables) as container:
            assert eventually(lambda: endpoint.get("/v2/serverless/local")["workers"]["min"] == 1), container.log
            endpoint.await_workers(idle=1)
            assert container.stop() == 0, container.log
        assert endpoint.get("/v2/serverless/local")["workers"]["min"] == 0


def test_the_image_a_deployment_names_is_this_one() -> None:
    for name in ("kubernetes-cronjob.yaml", "compose.yaml"):
        assert "image: pilotlight-warmer:0.1.0" in Path(ROOT, "warmup/deploy", name).read_text()
