"""`pilotlight up --runtime podman`: workers as containers of our own image."""

from __future__ import annotations

import signal

from tests.container.podman import Podman
from tests.handler.processes import eventually
from tests.local.test_up import found_restored
from tests.local.up_process import COUNT, COUNTED, Up, answer, up

OPTIONS = (
    "--runtime", "podman", "--container-option=--env=PILOTLIGHT_KV_MEMORY=64MiB", "--idle-timeout", "1",
    "--workers-max", "1",
)


def containers(podman: Podman, endpoint: Up) -> list[str]:
    label = f"label=pilotlight.endpoint={endpoint.state}"
    return podman("ps", "--all", "--quiet", "--filter", label).stdout.split()


def test_a_container_comes_from_zero_is_frozen_thawed_and_goes(podman: Podman, image: str) -> None:
    with up(*OPTIONS, "--image", image, "--flashboot", **podman.environment) as endpoint:
        assert answer(endpoint.post("/v2/local/runsync", {"input": COUNT})) == COUNTED
        assert eventually(lambda: "is frozen" in endpoint.output)
        [name] = containers(podman, endpoint)
        assert podman.inspect(name)["State"]["Status"] == "paused"
        assert any(found_restored(endpoint, freeze) for freeze in range(1, 4))
        assert endpoint.stop(signal.SIGINT) == 0
        assert eventually(lambda: containers(podman, endpoint) == [])
        bill = endpoint.bill()
        assert bill[0]["why"] == "frozen"
        assert 0 < endpoint.ledger_s() <= sum(charge["seconds"] for charge in bill) + len(bill)


def test_what_a_killed_endpoint_has_left_is_removed_by_the_next(podman: Podman, image: str) -> None:
    with up(*OPTIONS, "--image", image, "--flashboot", **podman.environment) as killed:
        killed.post("/v2/local/runsync", {"input": {"warmup": True}})
        assert eventually(lambda: "is frozen" in killed.output)
        killed.stop(signal.SIGKILL)
        assert containers(podman, killed) != [], "a frozen container cannot follow"
        environment = podman.environment | {"XDG_STATE_HOME": str(killed.state.parents[1])}
        with up(*OPTIONS, "--image", image, **environment) as again:
            assert eventually(lambda: "containers of an endpoint that was killed are removed: 1" in again.output)
            assert eventually(lambda: containers(podman, again) == [])


def test_a_killed_endpoint_takes_running_containers_with_it(podman: Podman, image: str) -> None:
    with up(*OPTIONS, "--image", image, "--workers-min", "1", **podman.environment) as endpoint:
        endpoint.await_workers(idle=1)
        endpoint.stop(signal.SIGKILL)
        assert eventually(lambda: containers(podman, endpoint) == [])
