"""Chunks to a whole answer. What is not streamed is folded from the same chunks, so the two cannot differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import cast

from handler.openai.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Message,
    ToolCall,
    Usage,
)


def fold_completion(chunks: Sequence[Completion]) -> Completion:
    """The answer whose chunks these are; the last holds the usage."""
    parts: dict[int, list[CompletionChoice]] = defaultdict(list)
    for choice in chain.from_iterable(chunk["choices"] for chunk in chunks):
        parts[choice["index"]].append(choice)
    return {**chunks[-1], "choices": [_completion_choice(parts[index]) for index in sorted(parts)]}


def fold_chat(chunks: Sequence[ChatChunk]) -> ChatCompletion:
    """The answer whose chunks these are; the last holds the usage."""
    parts: dict[int, list[ChatChunkChoice]] = defaultdict(list)
    for choice in chain.from_iterable(chunk["choices"] for chunk in chunks):
        parts[choice["index"]].append(choice)
    last = chunks[-1]
    return ChatCompletion(
        id=last["id"], object="chat.completion", created=last["created"], model=last["model"],
        choices=[_chat_choice(parts[index]) for index in sorted(parts)], usage=cast(Usage, last["usage"]),
    )


def _completion_choice(parts: Sequence[CompletionChoice]) -> CompletionChoice:
    logprobs = [part["logprobs"] for part in parts if part["logprobs"] is not None]
    return {
        **parts[-1], "text": "".join(part["text"] for part in parts),
        "logprobs": _completion_logprobs(logprobs) if logprobs else None,
    }


def _completion_logprobs(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    return CompletionLogprobs(
        tokens=list(chain.from_iterable(part["tokens"] for part in parts)),
        token_logprobs=list(chain.from_iterable(part["token_logprobs"] for part in parts)),
        top_logprobs=list(chain.from_iterable(part["top_logprobs"] for part in parts)),
        text_offset=list(chain.from_iterable(part["text_offset"] for part in parts)),
    )


def _chat_choice(parts: Sequence[ChatChunkChoice]) -> ChatChoice:
    last = parts[-1]
    tokens = list(chain.from_iterable(part["logprobs"]["content"] for part in parts if part["logprobs"]))
    return ChatChoice(
        index=last["index"], message=_message(parts), logprobs=ChatLogprobs(content=tokens) if tokens else None,
        finish_reason=last["finish_reason"], stop_reason=last["stop_reason"],
    )


def _message(parts: Sequence[ChatChunkChoice]) -> Message:
    content = "".join(part["delta"].get("content", "") for part in parts)
    calls = list(chain.from_iterable(part["delta"].get("tool_calls", []) for part in parts))
    if not calls:
        return Message(role="assistant", content=content, refusal=None)
    whole = [ToolCall(id=call["id"], type="function", function=call["function"]) for call in calls]
    return Message(role="assistant", content=content or None, refusal=None, tool_calls=whole)
