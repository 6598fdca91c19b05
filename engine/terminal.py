"""The engine at a terminal: one completion, or a conversation, written as it is generated."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event as Flag
from types import FrameType
from typing import Any

from engine.engine import Model
from engine.errors import InvalidRequest, PilotlightError
from engine.llm import LLM, CompletionOutput
from engine.request import Event, SamplingParams

Write = Callable[[str], object]
"""Takes a piece of the answer as soon as there is one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Boot:
    """How long it took to be able to answer, and to answer; seconds since the process started."""

    ready_s: float
    first_token_s: float | None
    spans: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer and what it took."""

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    boot: Boot


def complete(llm: LLM, text: str, params: SamplingParams, *, raw: bool, write: Write) -> Completion:
    """Complete `text`, as a user's message to a model with a chat template unless `raw`.

    Raises:
        PilotlightError: the request cannot succeed, or failed.
    """
    timeline = llm.booted.timeline
    ready = timeline.now()
    first_token: list[float] = []

    def on_event(event: Event) -> None:
        if event.token_ids and not first_token:
            first_token.append(timeline.now())
        write(event.text)

    model = llm.booted.model
    template = None if raw else model.chat_template
    ids = _encode_chat(model, [_message("user", text)]) if template else model.tokenizer.encode(text, True)
    output = _answer(llm, ids, params, on_event)
    boot = Boot(ready, first_token[0] if first_token else None, timeline.as_dicts())
    usage = Usage(len(ids), len(output.token_ids))
    return Completion(output.text, output.token_ids, output.finish_reason or "", usage, boot)


def converse(llm: LLM, params: SamplingParams, ask: Callable[[], str], write: Write) -> None:
    """Talk until `ask` raises EOFError or returns `/quit`; `/reset` forgets what was said.

    Ctrl-C while an answer is written ends the answer alone; what was written of it stays in the conversation.

    Raises:
        InvalidRequest: the model has no chat template.
    """
    if llm.booted.model.chat_template is None:
        raise InvalidRequest(f"{llm.booted.model.name} has no chat template; pilotlight generate takes plain text")
    messages: list[dict[str, str]] = []
    for line in _lines(ask, write):
        if line == "/reset":
            messages.clear()
            continue
        try:
            answer = _reply(llm, [*messages, _message("user", line)], params, write)
        except PilotlightError as error:
            write(f"({error}; /reset begins anew)\n")
            continue
        messages += [_message("user", line), _message("assistant", answer)]


def _lines(ask: Callable[[], str], write: Write) -> Iterator[str]:
    """What the user types, without empty lines and unknown commands, until they leave."""
    while (line := _line(ask, write)) not in (None, "/quit"):
        if line.startswith("/") and line != "/reset" and " " not in line:
            write("(unknown command; /reset forgets, /quit leaves)\n")
        elif line:
            yield line


def _line(ask: Callable[[], str], write: Write) -> str | None:
    """The next line; None at its end, or at a second Ctrl-C on end: the first one may have been meant for an answer."""
    for hint in ("(Ctrl-C again, Ctrl-D or /quit leaves)", ""):
        try:
            return ask().strip()
        except EOFError:
            write("\n")
            return None
        except KeyboardInterrupt:
            write(f"\n{hint}\n" if hint else "\n")
    return None


class _Interrupted(Exception):
    """The user has read enough."""


def _reply(llm: LLM, messages: Sequence[dict[str, str]], params: SamplingParams, write: Write) -> str:
    ids = _encode_chat(llm.booted.model, messages)
    said: list[str] = []
    with _interrupt_flag() as interrupted:

        def on_event(event: Event) -> None:
            write(event.text)
            said.append(event.text)
            if interrupted.is_set():
                raise _Interrupted

        with suppress(_Interrupted):
            _answer(llm, ids, params, on_event)
    write("\n")
    return "".join(said)


@contextmanager
def _interrupt_flag() -> Iterator[Flag]:
    """A flag that Ctrl-C sets instead of raising, so that no step is left half done."""
    flag = Flag()

    def set_flag(signum: int, frame: FrameType | None) -> None:
        flag.set()

    before = signal.signal(signal.SIGINT, set_flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(llm: LLM, ids: list[int], params: SamplingParams, on_event: Callable[[Event], None]) -> CompletionOutput:
    [request] = llm.generate([ids], params, on_event=on_event)
    [output] = request.outputs
    if output.finish is not None and output.finish.error is not None:
        raise PilotlightError(output.finish.error)
    return output


def _encode_chat(model: Model, messages: Sequence[dict[str, str]]) -> list[int]:
    assert model.chat_template is not None
    return model.tokenizer.encode(model.chat_template.render(messages), add_special_tokens=False)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
