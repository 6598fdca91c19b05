"""OpenAI's routes over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from handler.access import AdmittedRoute, KeyedRoute, caller_of, frontend_of
from handler.document import answer as answering
from handler.document import errors
from handler.hanging_up import EventStream, while_connected
from handler.openai.answering import Answer
from handler.openai.responses import ChatChunk, ChatCompletion, Completion, ModelCard, ModelList
from handler.openai.schema import ChatRequest, CompletionRequest
from handler.shapes import OpenAIError


class GeneratingRoute(AdmittedRoute):
    """A route whose requests wait in the engine's queue."""

    def check_room(self, request: Request) -> None:
        """See `AdmittedRoute`."""
        frontend_of(request).service.engine.check_room()


def openai_router() -> APIRouter:
    """The routes below /v1."""
    router = APIRouter(
        prefix="/v1", tags=["OpenAI"], route_class=KeyedRoute,
        responses=errors(OpenAIError, 401, 404, 429, 500, 503),
    )
    generating = APIRouter(route_class=GeneratingRoute)
    router.get("/models", response_model=None, responses=answering(ModelList))(list_models)
    router.get("/models/{name:path}", response_model=None, responses=answering(ModelCard))(get_model)
    wrong = errors(OpenAIError, 400, 408, 413, 504)
    completion, chat = answering(Completion, Completion), answering(ChatCompletion, ChatChunk)
    generating.post("/completions", response_model=None, responses=completion | wrong)(create_completion)
    generating.post("/chat/completions", response_model=None, responses=chat | wrong)(create_chat_completion)
    router.include_router(generating)
    return router


async def list_models(request: Request) -> ModelList:
    """The models that are served."""
    return frontend_of(request).service.models()


async def get_model(request: Request, name: str) -> ModelCard:
    """One model by its name."""
    return frontend_of(request).service.model(name)


async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continue a text."""
    answer = await frontend_of(request).service.complete(body, caller_of(request))
    return await _respond(request, answer, bool(body.stream))


async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    answer = await frontend_of(request).service.chat(body, caller_of(request))
    return await _respond(request, answer, bool(body.stream))


async def _respond(request: Request, answer: Answer, stream: bool) -> Response:
    if stream:
        return EventStream(answer)
    try:
        return JSONResponse(await while_connected(request, answer.whole()))
    finally:
        answer.close()
