"""OpenAI's routes over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from handler.access import caller_key, frontend_of
from handler.caller import Caller
from handler.hanging_up import EventStream, while_connected
from handler.openai.answering import Answer
from handler.openai.responses import ModelCard, ModelList
from handler.openai.schema import ChatRequest, CompletionRequest

ApiKey = Annotated[str | None, Depends(caller_key)]


def openai_router() -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(caller_key)])
    router.get("/models", response_model=None)(list_models)
    router.get("/models/{name:path}", response_model=None)(get_model)
    router.post("/completions", response_model=None)(create_completion)
    router.post("/chat/completions", response_model=None)(create_chat_completion)
    return router


async def list_models(request: Request) -> ModelList:
    """The models that are served."""
    return frontend_of(request).service.models()


async def get_model(request: Request, name: str) -> ModelCard:
    """One model by its name."""
    return frontend_of(request).service.model(name)


async def create_completion(request: Request, body: CompletionRequest, api_key: ApiKey) -> Response:
    """Continue a text."""
    answer = await frontend_of(request).service.complete(body, Caller(api_key))
    return await _respond(request, answer, bool(body.stream))


async def create_chat_completion(request: Request, body: ChatRequest, api_key: ApiKey) -> Response:
    """Answer a conversation."""
    answer = await frontend_of(request).service.chat(body, Caller(api_key))
    return await _respond(request, answer, bool(body.stream))


async def _respond(request: Request, answer: Answer, stream: bool) -> Response:
    if stream:
        return EventStream(answer)
    try:
        return JSONResponse(await while_connected(request, answer.whole()))
    finally:
        answer.close()
