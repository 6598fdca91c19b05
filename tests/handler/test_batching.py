"""Items are gathered by time, in order, none lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from handler.batching import batched
from handler.merging import merge


class Source:
    """Numbers, one in `pause` seconds; knows whether it was closed."""

    def __init__(self, count: int, pause: float, error: Exception | None = None) -> None:
        self._count, self._pause, self._error = count, pause, error
        self.closed = False

    async def items(self) -> AsyncGenerator[int]:
        try:
            for number in range(self._count):
                await asyncio.sleep(self._pause)
                yield number
            if self._error:
                raise self._error
        finally:
            self.closed = True


def test_first_comes_at_once_and_the_rest_in_groups() -> None:
    async def collect() -> list[list[int]]:
        return [batch async for batch in batched(Source(50, 0.002).items(), 0.05)]

    began = time.monotonic()
    batches = asyncio.run(collect())
    assert [number for batch in batches for number in batch] == list(range(50))
    assert len(batches[0]) == 1
    assert 2 <= len(batches) <= 3 + (time.monotonic() - began) / 0.05


def test_window_of_nothing_holds_nothing_back() -> None:
    async def collect() -> list[list[int]]:
        return [batch async for batch in batched(Source(5, 0.005).items(), 0)]

    assert asyncio.run(collect()) == [[0], [1], [2], [3], [4]]


def test_error_comes_after_the_items_before_it() -> None:
    seen: list[int] = []

    async def collect() -> None:
        async for batch in batched(Source(3, 0.001, ValueError("broken")).items(), 0.05):
            seen.extend(batch)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(collect())
    assert seen == [0, 1, 2]


def test_closing_closes_the_source() -> None:
    async def leave(source: Source) -> None:
        batches = batched(source.items(), 0.01)
        await anext(batches)
        await batches.aclose()

    source = Source(100, 0.001)
    asyncio.run(leave(source))
    assert source.closed


def test_merged_streams_keep_their_order_and_close_together() -> None:
    async def collect(sources: list[Source]) -> list[tuple[int, int]]:
        merged = merge([source.items() for source in sources])
        seen = [await anext(merged) for _ in range(10)]
        await merged.aclose()
        return seen

    sources = [Source(100, 0.001), Source(2, 0.001), Source(100, 0.002)]
    seen = asyncio.run(collect(sources))
    for stream in range(3):
        numbers = [number for which, number in seen if which == stream]
        assert numbers == list(range(len(numbers)))
    assert {which for which, _ in seen} == {0, 1, 2}
    assert all(source.closed for source in sources)
