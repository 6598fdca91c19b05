"""Posts to the control plane, and what each answer means for what was posted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import aiohttp

from handler.native.polling import CONNECT_S, describe, pause_asked
from handler.native.protocol import POST_HEADERS

Verdict = Literal["accepted", "gone", "refused", "later"]
"""`gone`: nobody waits for this job. `refused`: not this body, ever. `later`: the same may be accepted then."""

POST_S: Final = 60.0
"""How long one post may take, its answer included."""

_GONE: Final = frozenset({404, 410})
_REFUSED: Final = frozenset({400, 413})
"""RunPod answers 400 to a result of over 20 MB (seen in a public log)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of a post.

    Attributes:
        said: what was answered, in a few words.
        wait_s: how long the other side wants to be left alone.
    """

    verdict: Verdict
    said: str
    wait_s: float = 0.0


class Post:
    """Posts bodies, as many at once as are given to it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={**headers, **POST_HEADERS},
            timeout=aiohttp.ClientTimeout(total=POST_S, sock_connect=CONNECT_S),
        )

    async def send(self, url: str, job: str, body: bytes) -> Reply:
        """Post this about the job. Never raises: whatever goes wrong on the way means `later`."""
        try:
            async with self._session.post(url, data=body, headers={"X-Request-ID": job}) as answer:
                await answer.read()
                return _judge(answer.status, answer.headers)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Reply("later", describe(error))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _judge(status: int, headers: Mapping[str, str]) -> Reply:
    said = f"the answer was {status}"
    if 200 <= status < 300:
        return Reply("accepted", said)
    if status in _GONE:
        return Reply("gone", said)
    if status in _REFUSED:
        return Reply("refused", said)
    return Reply("later", said, pause_asked(status, headers))
