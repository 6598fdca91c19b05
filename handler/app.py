"""The FastAPI application: every route, and every error in its shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from engine.errors import PilotlightError
from handler.access import limit_headers
from handler.body_limit import BodyLimit
from handler.document import DocumentedApp
from handler.frontend import Frontend
from handler.hanging_up import ClientGone
from handler.health import health_router
from handler.local_queue import LocalQueue
from handler.local_routes import is_local, local_router
from handler.openai.errors import ApiError, bad_request, from_engine, from_validation, internal, not_found
from handler.openai.responses import ChatChunk, ChatCompletion, Completion, ModelList
from handler.openai.routes import openai_router
from handler.shapes import EndpointHealth, JobState, JobStream, JobView, OpenAIError, RunPodError

_SHAPES: Final = (
    Completion, ChatCompletion, ChatChunk, ModelList, JobState, JobView, JobStream, EndpointHealth, OpenAIError,
    RunPodError,
)


def make_app(frontend: Frontend) -> FastAPI:
    """An application that answers from its first moment, with 503 where it needs an engine that still boots."""
    app = DocumentedApp(_SHAPES, title="Pilotlight", lifespan=_lifespan)
    app.state.frontend = frontend
    app.state.queue = LocalQueue(frontend)
    settings = frontend.settings
    app.add_middleware(BodyLimit, limit=int(settings.max_body), patience_s=settings.receive_timeout)
    app.include_router(health_router(settings.health_path))
    app.include_router(openai_router())
    app.include_router(local_router(endpoint=False))
    app.include_router(local_router(endpoint=True), prefix="/v2/{endpoint_id}")
    app.include_router(openai_router(), prefix="/v2/{endpoint_id}/openai")
    _handle_errors(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await app.state.queue.finish(app.state.frontend.settings.grace)


def _handle_errors(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(PilotlightError, _engine_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientGone, _client_gone)
    app.add_exception_handler(Exception, _unexpected)


def _respond(request: Request, error: ApiError) -> Response:
    """In OpenAI's shape, or on RunPod's routes in RunPod's, where an error is text."""
    path = request.scope["path"]  # As it was asked for: `request.url` knows no tabs and no question marks in it.
    body = {"error": str(error)} if is_local(path) else error.body
    return JSONResponse(body, error.status, headers=limit_headers(request) | error.headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _respond(request, error)


async def _engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PilotlightError)
    return _respond(request, from_engine(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request, from_validation(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, and bodies that FastAPI cannot decode."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ApiError):  # What stopped the body on its way, which FastAPI wraps.
        return _respond(request, error.__cause__)
    match error.status_code:
        case 404:
            message = f"there is no route {request.method} {request.scope['path']}"
            return _respond(request, not_found(message, code="unknown_url"))
        case 400:
            return _respond(request, bad_request("the body cannot be read: it must be JSON in valid UTF-8"))
    return _respond(request, ApiError(error.status_code, str(error.detail), "invalid_request_error"))


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what proxies write into their logs."""
    return Response(status_code=499)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _respond(request, internal())
