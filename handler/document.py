"""The OpenAPI document: the shapes of answers and errors, which the routes' types do not tell FastAPI.

Routes name shapes, and the document is made when somebody asks for it: a boot pays for none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from fastapi import FastAPI
from pydantic import TypeAdapter

from handler.shapes import OpenAIError

Responses = dict[int | str, dict[str, Any]]

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

_REFERENCE: Final = "#/components/schemas/{model}"
_UNTRUE: Final = ("HTTPValidationError", "ValidationError")
"""FastAPI's own error shapes; here a wrong request is a 400 in the API's shape."""

_MEANINGS: Final = {
    400: "The request is wrong in itself; the message names the field.",
    401: "No API key, or a wrong one.",
    404: "There is no such route, model, job or endpoint.",
    405: "Not to be done here.",
    408: "The request took too long to arrive.",
    413: "The body is too long.",
    429: "Too many requests.",
    500: "The server failed; its log says why.",
    503: "Not ready yet, shutting down, or out of service.",
    504: "The request ran into its time limit.",
}
_TEXT: Final = {"type": "string"}
_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


class DocumentedApp(FastAPI):
    """FastAPI with a document that holds `shapes`, those that the routes name."""

    def __init__(self, shapes: Sequence[type], **options: Any) -> None:
        super().__init__(**options)
        self._shapes = shapes

    def openapi(self) -> dict[str, Any]:
        """The document."""
        if self.openapi_schema is None:
            _complete(super().openapi(), self._shapes)
        return super().openapi()


def reference(shape: type) -> dict[str, str]:
    """A schema that points to the shape's."""
    return {"$ref": _REFERENCE.format(model=shape.__name__)}


def errors(shape: type, *statuses: int, media_type: str = JSON) -> Responses:
    """Errors of one shape, as a route's `responses`."""
    return {status: _error(shape, status, media_type) for status in statuses}


def answer(shape: type, events: type | None = None) -> Responses:
    """A good answer; where `events` is given it may also be a stream of these."""
    content: dict[str, Any] = {JSON: {"schema": reference(shape)}}
    if events is not None:
        of = {"contentMediaType": JSON, "contentSchema": {"anyOf": [reference(events), reference(OpenAIError)]}}
        content[EVENT_STREAM] = {"schema": event({"anyOf": [{"type": "string", **of}, {"const": "[DONE]"}]})}
    return {200: {"description": "Done.", "content": content}}


def event(data: Mapping[str, Any] = _TEXT) -> dict[str, Any]:
    """A schema of each event of a stream, which is what a media type's schema means there before OpenAPI 3.2."""
    return {"type": "object", "required": ["data"], "properties": {"data": dict(data)}}


def body(shape: type) -> dict[str, Any]:
    """A body that the route reads itself, as its `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": reference(shape)}}}}


def _error(shape: type, status: int, media_type: str) -> dict[str, Any]:
    told = {"description": _MEANINGS[status], "content": {media_type: {"schema": reference(shape)}}}
    return told | ({"headers": _RETRY_AFTER} if status in (429, 503) else {})


def _complete(document: dict[str, Any], shapes: Sequence[type]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _UNTRUE:
        schemas.pop(name, None)
    schemas.update(_schemas(shapes))


def _schemas(shapes: Sequence[type]) -> dict[str, Any]:
    """Of the shapes and all that is in them, by name."""
    adapters: list[tuple[str, Literal["validation"], TypeAdapter[Any]]] = [
        (shape.__name__, "validation", TypeAdapter(shape)) for shape in shapes
    ]
    _, found = TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)
    schemas: dict[str, Any] = found["$defs"]
    return schemas
