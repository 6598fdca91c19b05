"""What the engine does for one user's request, which may hold several prompts of several choices each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from engine.errors import PilotlightError
from engine.request import Event, SamplingParams
from handler.account import Account
from handler.merging import merge
from handler.metrics import Metrics
from handler.openai.errors import from_finish
from handler.rate_limits import Reservation

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.submission import Submission


class Generation:
    """Submits every prompt, and sees to it that none computes on after `close`.

    Raises:
        PilotlightError: a prompt is refused; those before it are aborted.
    """

    def __init__(
        self, engine: Engine, metrics: Metrics, account: Account, prompts: Sequence[Sequence[int]],
        params: SamplingParams, *, priority: int = 0, salt: bytes = b"", timeout: float | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._account = account
        self._params = params
        self._reservation = reservation or Reservation(None, 0)
        self._open = 0
        self._submissions: list[Submission] = []
        try:
            for prompt in prompts:
                submission = engine.submit(prompt, params, priority=priority, salt=salt, timeout=timeout)
                self._submissions.append(submission)
        except PilotlightError:
            self.close()
            raise
        self._open = len(prompts) * params.n
        self._reservation.spend(sum(map(len, prompts)))
        account.open()

    @property
    def unread(self) -> int:
        """Events that wait to be read."""
        return sum(submission.unread for submission in self._submissions)

    async def events(self) -> AsyncGenerator[tuple[int, Event]]:
        """(number of the prompt, event), to the end of the last choice.

        Raises:
            ApiError: a choice ended in an error.
        """
        watches = [self._metrics.watch(self._params) for _ in self._submissions]
        streams = [self._engine.stream(submission) for submission in self._submissions]
        async with aclosing(merge(streams)) as merged:
            async for prompt, event in merged:
                watches[prompt].see(event)
                self._account.see_tokens(len(event.token_ids))
                self._reservation.spend(len(event.token_ids))
                if event.finish is not None:
                    self._open -= 1
                    self._account.see(event.choice, event.finish)
                error = from_finish(event.finish) if event.finish else None
                if error is not None:
                    raise error
                yield prompt, event

    def close(self) -> None:
        """Abort what is unfinished; a second call is no error."""
        for submission in self._submissions:
            if submission.living:
                self._engine.abort(submission.id)
        self._account.close()
        self._reservation.settle()
        self._metrics.count_aborted(self._open)
        self._open = 0
