"""Events reach the loop that waits for them, in order, and without waking it more than it needs."""

from __future__ import annotations

import asyncio
from threading import Thread
from unittest.mock import Mock

import pytest

from engine.request import Event
from engine.submission import Outbox, Submission


def test_a_loop_is_woken_once_for_all_that_waits() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        wakings = Mock(side_effect=loop.call_soon_threadsafe)
        loop.call_soon_threadsafe = wakings  # type: ignore[method-assign]
        outbox = Outbox(loop)
        submission = Submission("a", 1, 1, 1, outbox)
        for turn in range(2):
            for number in range(100):
                outbox.send([(submission, Event("a", number))])
            assert [(await submission.get()).choice for _ in range(100)] == list(range(100))
            assert wakings.call_count == turn + 1

    asyncio.run(work())


def test_nothing_is_lost_between_threads() -> None:
    async def work() -> None:
        outbox = Outbox(asyncio.get_running_loop())
        submission = Submission("a", 1, 1, 1, outbox)

        def send() -> None:
            for number in range(5000):
                outbox.send([(submission, Event("a", number))])

        sender = Thread(target=send)
        sender.start()
        received = [(await submission.get()).choice for _ in range(5000)]
        sender.join()
        assert received == list(range(5000))

    asyncio.run(asyncio.wait_for(work(), 60))


def test_a_closed_loop_is_an_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    outbox = Outbox(loop)
    assert outbox.closed
    with pytest.raises(RuntimeError):
        outbox.send([(Submission("a", 1, 1, 1, outbox), Event("a", 0))])
