"""RunPod jobs: an input in, outputs as they come. The SDK's worker, its local modes and our own routes all run this."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.errors import PilotlightError
from handler.batching import batched
from handler.billing.lines import Asked, Outcome
from handler.caller import Caller
from handler.frontend import Frontend
from handler.job_input import JobInput, OpenAIInput, TextInput, WarmupInput, parse, parse_input
from handler.openai.errors import ApiError, from_engine, internal, not_found
from handler.openai.schema import ChatRequest, CompletionRequest

if TYPE_CHECKING:
    from handler.openai.answering import Answer
    from handler.openai.responses import Chunk
    from handler.openai.service import OpenAIService

_log = logging.getLogger("pilotlight.jobs")


class Jobs:
    """Runs jobs, as many at once as are given to it."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._window_s = frontend.settings.job_batch_ms / 1000

    async def handle(self, job: Mapping[str, Any]) -> AsyncGenerator[Any]:
        """The job's outputs; `{"error": text}` is the last one when it fails.

        The error is text that holds JSON, because the SDK passes on `str(error)`. Closing the generator, or cancelling
        the task that reads it, aborts what the engine does for it.
        """
        async with aclosing(self.run(job.get("input"), Caller(job=_job_id(job)))) as outputs:
            async for output in outputs:
                yield output

    async def run(self, given: object, caller: Caller) -> AsyncGenerator[Any]:
        """See `handle`."""
        try:
            asked = parse_input(given)
            caller = replace(caller, tenant=asked.tenant)
            found = self._frontend.watch.start_kind
            async with aclosing(self._outputs(asked, caller)) as outputs:
                async for output in outputs:
                    yield output
            if asked.timeline:
                yield {"timeline": {"start_kind": found, **self._frontend.boot.as_dict()}}
        except ApiError as error:
            yield {"error": error.text()}
        except PilotlightError as error:
            yield {"error": from_engine(error).text()}
        except Exception:
            _log.exception("a job failed")
            yield {"error": internal().text()}

    def _outputs(self, asked: JobInput, caller: Caller) -> AsyncGenerator[Any]:
        match asked:
            case WarmupInput():
                return self._warm_up(caller)
            case OpenAIInput(openai_route=route, openai_input=body):
                return self._openai(route, body or {}, caller)
            case TextInput() as text:
                return self._text(text, caller)

    async def _warm_up(self, caller: Caller) -> AsyncGenerator[dict[str, Any]]:
        """Have the worker ready for its first user; a snapshot taken when it next falls idle is to hold everything."""
        frontend = self._frontend
        service = await frontend.wait()
        service.engine.begin_deferred()
        kind, epoch = frontend.watch.take_start_kind(), frontend.epochs.current.number
        asked = Asked(f"warmup-{secrets.token_hex(12)}", kind, warmup=True, job=caller.job, tenant=caller.tenant)
        if (entry := frontend.recorder.enter(asked)) is not None:
            frontend.recorder.leave(entry, Outcome("stop"))
        ready_s = frontend.boot.ready_s
        yield {"warmup": True, "model": service.model_name, "ready_s": ready_s, "start_kind": kind, "epoch": epoch}

    async def _openai(self, route: str, body: dict[str, Any], caller: Caller) -> AsyncGenerator[Any]:
        """SSE text when the body says `stream`, else one object."""
        service = await self._frontend.wait()
        if route.startswith("/v1/models"):
            name = route.removeprefix("/v1/models").removeprefix("/")
            yield service.model(name) if name else service.models()
            return
        request = _openai_request(route, body)
        answer = await _begin(service, request, caller)
        try:
            if not request.stream:
                yield await answer.whole()
                return
            async with aclosing(batched(answer.sse(), self._window_s)) as batches:
                async for events in batches:
                    yield "".join(events)
        finally:
            answer.close()

    async def _text(self, given: TextInput, caller: Caller) -> AsyncGenerator[dict[str, Any]]:
        request = given.request()
        answer = await _begin(await self._frontend.wait(), request, caller)
        try:
            if not given.stream:
                yield _legacy_output([chunk async for chunk in answer.chunks()])
                return
            async with aclosing(batched(answer.chunks(), self._window_s)) as batches:
                async for chunks in batches:
                    yield _legacy_output(chunks)
        finally:
            answer.close()


def _job_id(job: Mapping[str, Any]) -> str | None:
    name = job.get("id")
    return None if name is None else str(name)


def _openai_request(route: str, body: dict[str, Any]) -> CompletionRequest | ChatRequest:
    match route:
        case "/v1/completions":
            return parse(CompletionRequest, body)
        case "/v1/chat/completions":
            return parse(ChatRequest, body)
    raise not_found(f"there is no openai_route {route!r}", "openai_route", "unknown_url")


async def _begin(
    service: OpenAIService, request: CompletionRequest | ChatRequest, caller: Caller
) -> Answer:
    if isinstance(request, ChatRequest):
        return await service.chat(request, caller)
    return await service.complete(request, caller)


def _legacy_output(chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Chunks in the shape of RunPod's vLLM worker: `{"choices": [{"tokens": [text]}], "usage": {"input", "output"}}`.

    The choices are in order, from the first to the last that has text here; the usage is in the last output.
    """
    texts: dict[int, str] = {}
    output: dict[str, Any] = {}
    for chunk in chunks:
        for index, text in _texts(chunk):
            texts[index] = texts.get(index, "") + text
        if usage := chunk.get("usage"):
            output["usage"] = {"input": usage["prompt_tokens"], "output": usage["completion_tokens"]}
    count = max(texts, default=-1) + 1
    return {"choices": [{"tokens": [texts[index]] if index in texts else []} for index in range(count)], **output}


def _texts(chunk: Chunk) -> Iterator[tuple[int, str]]:
    """(choice, new text) of every choice in the chunk."""
    if chunk["object"] == "text_completion":
        yield from ((choice["index"], choice["text"]) for choice in chunk["choices"])
    else:
        yield from ((choice["index"], choice["delta"].get("content", "")) for choice in chunk["choices"])
