"""Events to chunks: what a step added to a choice, in OpenAI's words."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from engine import tools
from engine.request import Event, FinishReason
from handler.openai.logprobs import chat_logprobs, completion_logprobs
from handler.openai.responses import (
    ChatChunk,
    ChatChunkChoice,
    Chunk,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    Finished,
    Function,
    ToolCall,
    Usage,
)

if TYPE_CHECKING:
    from engine.text import Tokenizer


class Writer(Protocol):
    """Makes the chunks of one answer; it is told every event once, in order.

    Attributes:
        id: the answer's, which every chunk carries.
    """

    id: str

    def write(self, prompt: int, event: Event) -> Iterator[Chunk]:
        """The chunks that an event of the prompt with this number gives, perhaps none."""

    def finish(self, usage: Usage) -> Chunk:
        """The last chunk: the usage, without choices."""


class CompletionWriter:
    """Chunks of a text completion.

    Args:
        prompts: the prompts' token ids.
        echo: the prompts' texts, when each choice is to begin with its own.
        n: choices a prompt; those of prompt p have the numbers from p * n on.
    """

    def __init__(
        self, tokenizer: Tokenizer, model: str, prompts: Sequence[Sequence[int]], n: int, echo: Sequence[str] | None
    ) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._echo = echo
        self._n = n
        self._offsets: dict[int, int] = {}
        self.id, self._created, self._model = f"cmpl-{secrets.token_hex(12)}", int(time.time()), model

    def write(self, prompt: int, event: Event) -> Iterator[Completion]:
        """See `Writer`."""
        index = prompt * self._n + event.choice
        if index not in self._offsets:
            self._offsets[index] = 0
            if self._echo is not None:
                yield self._chunk([self._echo_choice(prompt, index, event)])
        logprobs = self._logprobs(index, event)
        if event.text or logprobs or event.finish:
            yield self._chunk([_completion_choice(index, event.text, logprobs, event)])

    def finish(self, usage: Usage) -> Completion:
        """See `Writer`."""
        return {**self._chunk([]), "usage": usage}

    def _echo_choice(self, prompt: int, index: int, event: Event) -> CompletionChoice:
        assert self._echo is not None
        logprobs = None
        if event.prompt_logprobs is not None:
            logprobs = completion_logprobs(event.prompt_logprobs, self._prompts[prompt], self._tokenizer, 0)
            self._advance(index, logprobs)
        return CompletionChoice(
            index=index, text=self._echo[prompt], logprobs=logprobs, finish_reason=None, stop_reason=None
        )

    def _logprobs(self, index: int, event: Event) -> CompletionLogprobs | None:
        if not event.logprobs:
            return None
        written = completion_logprobs(event.logprobs, event.token_ids, self._tokenizer, self._offsets[index])
        self._advance(index, written)
        return written

    def _advance(self, index: int, written: CompletionLogprobs) -> None:
        self._offsets[index] += sum(map(len, written["tokens"]))

    def _chunk(self, choices: list[CompletionChoice]) -> Completion:
        return Completion(
            id=self.id, object="text_completion", created=self._created, model=self._model, choices=choices
        )


class ChatWriter:
    """Chunks of a chat's answer.

    Args:
        calls_tools: whether the model was shown tools, so that its calls are to be found in its text.
    """

    def __init__(self, tokenizer: Tokenizer, model: str, n: int, calls_tools: bool) -> None:
        self._tokenizer = tokenizer
        self._choices = [_ChatChoice(calls_tools) for _ in range(n)]
        self.id, self._created, self._model = f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), model

    def write(self, prompt: int, event: Event) -> Iterator[ChatChunk]:
        """See `Writer`."""
        choice = self._choices[event.choice]
        delta = choice.delta(event)
        logprobs = chat_logprobs(event.logprobs, self._tokenizer) if event.logprobs else None
        if delta or logprobs or event.finish:
            yield self._chunk([
                ChatChunkChoice(
                    index=event.choice, delta=delta, logprobs=logprobs, finish_reason=choice.finish_reason(event),
                    stop_reason=event.finish.stop if event.finish else None,
                )
            ])

    def finish(self, usage: Usage) -> ChatChunk:
        """See `Writer`."""
        return {**self._chunk([]), "usage": usage}

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return ChatChunk(
            id=self.id, object="chat.completion.chunk", created=self._created, model=self._model, choices=choices
        )


class _ChatChoice:
    """One choice's message so far: whether it has begun, and the calls in it."""

    def __init__(self, calls_tools: bool) -> None:
        self._begun = False
        self._parser = tools.ToolCallParser() if calls_tools else None
        self._calls = 0

    def delta(self, event: Event) -> Delta:
        """What the event adds to the message."""
        delta = Delta()
        if not self._begun:
            delta["role"] = "assistant"
            self._begun = True
        for parsed in self._parse(event):
            if parsed.content:
                delta["content"] = delta.get("content", "") + parsed.content
            if parsed.calls:
                delta["tool_calls"] = delta.get("tool_calls", []) + [self._call(call) for call in parsed.calls]
        return delta

    def finish_reason(self, event: Event) -> Finished | None:
        """Why the choice ended; an output cut off by its length says so even after whole calls."""
        if event.finish is None:
            return None
        reason = _finished(event)
        return "tool_calls" if reason == "stop" and self._calls else reason

    def _parse(self, event: Event) -> Iterator[tools.Parsed]:
        if self._parser is None:
            yield tools.Parsed(event.text)
            return
        yield self._parser.push(event.text)
        if event.finish is not None:
            yield self._parser.flush()

    def _call(self, call: tools.ToolCall) -> ToolCall:
        self._calls += 1
        function = Function(name=call.name, arguments=call.arguments)
        return ToolCall(index=self._calls - 1, id=f"call_{secrets.token_hex(12)}", type="function", function=function)


def _completion_choice(
    index: int, text: str, logprobs: CompletionLogprobs | None, event: Event
) -> CompletionChoice:
    finish = event.finish
    return CompletionChoice(
        index=index, text=text, logprobs=logprobs, finish_reason=_finished(event) if finish else None,
        stop_reason=finish.stop if finish else None,
    )


def _finished(event: Event) -> Literal["stop", "length"]:
    return "length" if event.finish and event.finish.reason is FinishReason.LENGTH else "stop"
