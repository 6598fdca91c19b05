"""What one request comes to: its entry in the books, filled in as its choices end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, get_args

from engine.request import Finish
from handler.billing.lines import Asked, FinishReason, Outcome

if TYPE_CHECKING:
    from handler.billing.books import Entry
    from handler.billing.recorder import Recorder

_GRAVITY: Final[tuple[FinishReason, ...]] = get_args(FinishReason)
"""From a good end to a bad one: of several choices the ledger tells the worst."""


class Account:
    """Open it once the engine has taken every prompt, and close it whatever happens.

    Args:
        choices: how many ends there are to come, of all prompts together.
        prompt_tokens: of all prompts together.
    """

    def __init__(self, recorder: Recorder, asked: Asked, choices: int, prompt_tokens: int = 0) -> None:
        self._recorder = recorder
        self._asked = asked
        self._choices = choices
        self._prompt_tokens = prompt_tokens
        self._entry: Entry | None = None
        self._finishes: list[Finish] = []
        self._prompts: list[Finish] = []
        self._seen_tokens = 0
        self._first_seen_s: float | None = None
        self._opened_s = 0.0

    def open(self) -> None:
        """From here on the request shares the worker's time."""
        self._entry = self._recorder.enter(self._asked)
        self._opened_s = time.monotonic()

    def see_tokens(self, count: int) -> None:
        """Tokens of some choice have come; of one that never ends they are all that is known."""
        if self._first_seen_s is None and count:
            self._first_seen_s = time.monotonic() - self._opened_s
        self._seen_tokens += count

    def see(self, choice: int, finish: Finish) -> None:
        """A choice has ended, perhaps the last one."""
        self._finishes.append(finish)
        if choice == 0:  # Every choice tells of the prompt's tokens, which only the first one computed.
            self._prompts.append(finish)
        if len(self._finishes) == self._choices:
            self.close()

    def close(self) -> None:
        """The request has ended; choices that have not are aborted. A second call is no error."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._recorder.leave(entry, self._outcome())

    def _outcome(self) -> Outcome:
        finishes, prompts = self._finishes, self._prompts
        first = _earliest([_since_arrival(finish, finish.timing.first_token) for finish in finishes])
        seen = None if self._first_seen_s is None else round(1000 * self._first_seen_s)
        return Outcome(
            self._reason(),
            _earliest([_since_arrival(finish, finish.timing.scheduled) for finish in finishes]),
            first if first is not None else seen,
            max(self._prompt_tokens, sum([finish.prompt_tokens for finish in prompts])),
            sum([finish.cached_tokens for finish in prompts]),
            max(self._seen_tokens, sum([finish.completion_tokens for finish in finishes])),
        )

    def _reason(self) -> FinishReason:
        reasons: list[FinishReason] = [finish.reason.value for finish in self._finishes]
        if len(reasons) < self._choices:
            reasons.append("abort")
        return max(reasons, key=_GRAVITY.index)


def _since_arrival(finish: Finish, moment: float | None) -> int | None:
    return None if moment is None else round(1000 * (moment - finish.timing.arrived))


def _earliest(moments: list[int | None]) -> int | None:
    return min((moment for moment in moments if moment is not None), default=None)
