"""The container's HEALTHCHECK: `python -m handler.healthcheck`. Standard library only, as it runs every few seconds."""

import http.client
import os
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from handler.mode import HTTP_PORT, TEST_INPUT, choose_mode

TIMEOUT_S: Final = 4.0
"""A second less than the image gives the check."""

_LOOPBACK: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def main() -> int:
    """0 if the server says that it serves, 1 while it boots, is dead, or cannot be reached.

    A worker of RunPod's queue listens nowhere and answers for itself by its pings; here it is well while it runs.
    """
    address = find_server(os.environ)
    return 0 if address is None or _serves(*address) else 1


def find_server(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """The host and port to ask; None for what does not listen."""
    mode = choose_mode((), environment, os.path.exists(TEST_INPUT))  # noqa: PTH110 - pathlib takes 5 ms.
    if mode not in ("server", "load balancer"):
        return None
    host = environment.get("PILOTLIGHT_HOST", "")
    names = ("PILOTLIGHT_HEALTH_PORT", "PORT_HEALTH", "PILOTLIGHT_PORT", "PORT")
    port = next((environment[name] for name in names if environment.get(name)), None)
    return _LOOPBACK.get(host, host), int(port or (8000 if mode == "server" else HTTP_PORT))


def _serves(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException) as error:
        print(f"pilotlight: {host} port {port}: {error}", file=sys.stderr)
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
