"""How much of an answer a client has not read: what its machine has not taken, wherever it waits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from handler.connection import unread_bytes

WRITTEN = 32 << 20
"""More than kernels hold."""

READ = 200_000
"""Less than the kernel must have sent before it takes more from the process."""


def test_a_client_that_reads_a_little_is_seen_to_read() -> None:
    asyncio.run(reads_a_little())


async def reads_a_little() -> None:
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        writer = await accepted.get()
        transport = writer.transport
        writer.write(bytes(WRITTEN))
        await still(transport.get_write_buffer_size)
        unread = unread_bytes(transport)
        assert WRITTEN // 2 < unread <= WRITTEN
        left = READ
        while left > 0:
            left -= len(client.recv(left))
        for _ in range(600):  # The kernel tells nobody when it has sent something.
            if unread_bytes(transport) < unread - READ // 4:
                break
            await asyncio.sleep(0.1)
        assert unread_bytes(transport) < unread - READ // 4
        transport.abort()
    server.close()


async def still(size: Callable[[], int]) -> None:
    """Wait until it changes no more."""
    before = -1
    while (now := size()) != before:
        before = now
        await asyncio.sleep(0.3)
