"""What one request comes to: its entry in the books, filled in as its choices end."""

from __future__ import annotations

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
    """

    def __init__(self, recorder: Recorder, asked: Asked, choices: int) -> None:
        self._recorder = recorder
        self._asked = asked
        self._choices = choices
        self._entry: Entry | None = None
        self._finishes: list[Finish] = []
        self._prompts: list[Finish] = []

    def open(self) -> None:
        """From here on the request shares the worker's time."""
        self._entry = self._recorder.enter(self._asked)

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
        return Outcome(
            self._reason(),
            _earliest([_since_arrival(finish, finish.timing.scheduled) for finish in finishes]),
            _earliest([_since_arrival(finish, finish.timing.first_token) for finish in finishes]),
            sum([finish.prompt_tokens for finish in prompts]),
            sum([finish.cached_tokens for finish in prompts]),
            sum([finish.completion_tokens for finish in finishes]),
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
