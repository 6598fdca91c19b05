"""What `python -m handler` is to be. Standard library only: a boot and every health check pay for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Mode = Literal["runpod's test", "load balancer", "queue", "server"]

HTTP_PORT = 80
"""Where RunPod's load balancer asks when PORT does not say (RunPod's documentation, "Load balancing endpoints")."""

TEST_INPUT = "test_input.json"

SDK_FLAGS = frozenset({
    "--rp_api_concurrency", "--rp_api_host", "--rp_api_port", "--rp_debugger", "--rp_log_level", "--rp_serve_api",
    "--test_input",
})
"""What RunPod's SDK, 1.12, takes on the command line. It ignores all else."""

HELP = """Usage: python -m handler

The container's entry. What it is follows from the first of these that it finds:

  --test_input JSON, --rp_serve_api, RUNPOD_REALTIME_PORT   the test of RunPod's SDK
  PORT, PORT_HEALTH                                         RunPod's load-balanced worker
  RUNPOD_WEBHOOK_GET_JOB                                    RunPod's queue worker
  test_input.json in the current folder                     the SDK's test of one job
  nothing                                                   the HTTP server on PILOTLIGHT_PORT (8000)

Settings are environment variables, the same as those of `pilotlight serve`: docs/http-api.md lists them.
"""


def choose_mode(arguments: Sequence[str], environment: Mapping[str, str], has_test_input: bool) -> Mode:
    """The first that is asked for.

    A flag of RunPod's SDK, or its `RUNPOD_REALTIME_PORT`: the SDK's test. `PORT` or `PORT_HEALTH`: a load-balanced
    worker. `RUNPOD_WEBHOOK_GET_JOB`: the queue worker. A `test_input.json` in the current folder: the SDK's test.
    None of these: the HTTP server.

    Args:
        arguments: those after the program's name.
    """
    flags = {argument.partition("=")[0] for argument in arguments}
    if flags & {"--test_input", "--rp_serve_api"} or environment.get("RUNPOD_REALTIME_PORT", "0") != "0":
        return "runpod's test"
    if environment.get("PORT") or environment.get("PORT_HEALTH"):
        return "load balancer"
    if "RUNPOD_WEBHOOK_GET_JOB" in environment:
        return "queue"
    return "runpod's test" if has_test_input else "server"


def meaningless(arguments: Sequence[str], mode: Mode) -> str | None:
    """The first argument that would be ignored: any, by an HTTP server; what is no flag of it, by RunPod's SDK."""
    if mode in ("server", "load balancer"):
        return next(iter(arguments), None)
    return next((name for name in arguments if name.startswith("-") and name.partition("=")[0] not in SDK_FLAGS), None)
