"""What a process does anew after a restore, because others may have been restored from the same snapshot."""

from __future__ import annotations

import random
import secrets
import socket
import sys
from pathlib import Path
from typing import Final

_PROBE: Final = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 2,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
}
"""A silent peer is asked after 2 s, then each second, and given up after three questions (tcp(7))."""


def reseed() -> None:
    """Seed every generator that the process holds itself from the kernel's.

    `secrets`, `uuid` and the seeds of requests that name none ask the kernel each time, and need nothing.
    """
    random.seed()
    # Only what is loaded: a boot may be under way, and nothing else of it is to be imported here.
    if (ssl := sys.modules.get("ssl")) is not None:
        ssl.RAND_add(secrets.token_bytes(32), 32.0)
    manual_seed = getattr(sys.modules.get("torch"), "manual_seed", None)
    if manual_seed is not None:
        manual_seed(secrets.randbits(63))


def probe_connections() -> int:
    """Have the kernel find out which TCP connections are dead; gives how many are asked.

    A dead one then breaks in seconds, where a long poll would have read from it for a minute and more, and whoever
    holds it, whatever the library, connects anew. A living one loses nothing, not even what has arrived unread.
    """
    return sum(_probe(int(path.name)) for path in Path("/proc/self/fd").iterdir())


def _probe(descriptor: int) -> bool:
    """Ask over this descriptor if it is a TCP connection; what is set on its duplicate holds for it too."""
    try:
        with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
            if not _is_tcp_connection(duplicate):
                return False
            for (level, option), value in _PROBE.items():
                duplicate.setsockopt(level, option, value)
            return True
    except OSError:  # No socket, or its owner has closed it meanwhile.
        return False


def _is_tcp_connection(candidate: socket.socket) -> bool:
    domain, kind, listens = (
        candidate.getsockopt(socket.SOL_SOCKET, option)
        for option in (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_ACCEPTCONN)
    )
    return domain in (socket.AF_INET, socket.AF_INET6) and kind == socket.SOCK_STREAM and not listens
