"""An answer under way, to be streamed or taken whole."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, cast

from engine.request import Finish
from handler.openai.errors import ApiError
from handler.openai.folding import fold_chat, fold_completion
from handler.openai.generation import Generation
from handler.openai.responses import ChatChunk, Chunk, Completion, PromptDetails, Usage, Whole

if TYPE_CHECKING:
    from handler.openai.writers import Writer

DONE = "data: [DONE]\n\n"


class Answer:
    """Read it once, by one of its ways, and `close` it whatever happens."""

    def __init__(self, generation: Generation, writer: Writer, include_usage: bool) -> None:
        self._generation = generation
        self._writer = writer
        self._include_usage = include_usage
        self._written = 0
        self._pieces = 0

    @property
    def unread_bytes(self) -> int:
        """About what is still to be written of the events that have come, as long as those before them."""
        return self._generation.unread * self._written // max(1, self._pieces)

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """Everything as it comes, the usage last.

        Raises:
            ApiError: a choice ended in an error.
        """
        counter = _UsageCounter()
        async for prompt, event in self._generation.events():
            if event.finish is not None:
                counter.add(event.choice, event.finish)
            for chunk in self._writer.write(prompt, event):
                yield chunk
        yield self._writer.finish(counter.usage())

    async def sse(self) -> AsyncGenerator[str]:
        """Server-sent events. An error on the way is an event too: by then the status line is sent."""
        try:
            async for chunk in self.chunks():
                if self._include_usage or chunk["choices"]:
                    piece = sse_event({"usage": None, **chunk} if self._include_usage else chunk)
                    self._pieces += 1
                    self._written += len(piece)
                    yield piece
        except ApiError as error:
            yield sse_event(error.body)
        yield DONE

    async def whole(self) -> Whole:
        """All of it; raises as `chunks`."""
        chunks = [chunk async for chunk in self.chunks()]
        if chunks[0]["object"] == "text_completion":
            return fold_completion(cast(list[Completion], chunks))
        return fold_chat(cast(list[ChatChunk], chunks))

    def close(self) -> None:
        """Abort what is unfinished; a second call is no error."""
        self._generation.close()


def sse_event(content: Mapping[str, object]) -> str:
    """One server-sent event that holds JSON."""
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


class _UsageCounter:
    """Adds up the ends of all choices; a prompt counts once, by its first choice."""

    def __init__(self) -> None:
        self._prompt = self._cached = self._completion = 0

    def add(self, choice: int, finish: Finish) -> None:
        self._completion += finish.completion_tokens
        if choice == 0:
            self._prompt += finish.prompt_tokens
            self._cached += finish.cached_tokens

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._prompt, completion_tokens=self._completion,
            total_tokens=self._prompt + self._completion,
            prompt_tokens_details=PromptDetails(cached_tokens=self._cached),
        )
