"""The container as RunPod's workers: by the variables that the platform sets."""

from __future__ import annotations

import httpx

from tests.container.podman import Podman, published, status_of
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import eventually

MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
JOB = {"openai_route": "/v1/chat/completions", "openai_input": {"model": "demo", "messages": MESSAGES}}
COUNTED = "3 4 5 6 7"
BOOTING = (0, httpx.codes.NO_CONTENT)
"""Nothing listens yet, or RunPod's word for a worker that initialises."""


def test_the_queue_worker_does_jobs(podman: Podman, image: str) -> None:
    with (
        ControlPlane().listening() as plane,
        podman.running(image, "--network=host", "--read-only", environment=plane.environment()) as container,
    ):
        done = plane.run("first", JOB).done
        assert done is not None
        assert done["output"][0]["choices"][0]["message"]["content"] == COUNTED
        assert container.health() == 0
        assert container.stop() == 0
        assert plane.faults == []


def test_the_load_balanced_worker_listens_where_it_is_told(podman: Podman, image: str) -> None:
    (served, url), (asked, health), (default, elsewhere) = published(9000), published(9001), published()
    variables = {"PORT": "9000", "PORT_HEALTH": "9001", "HEALTH_CHECK_PATH": "/well"}
    with podman.running(image, served, asked, default, environment=variables) as container:
        assert eventually(lambda: status_of(f"{health}/ping") not in BOOTING)
        assert status_of(f"{health}/ping") == httpx.codes.OK
        assert status_of(f"{health}/well") == httpx.codes.OK
        answer = httpx.post(f"{url}/v1/chat/completions", json=JOB["openai_input"], timeout=60).json()
        assert answer["choices"][0]["message"]["content"] == COUNTED
        assert status_of(elsewhere) == 0
        assert container.health() == 0
