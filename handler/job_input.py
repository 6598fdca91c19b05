"""The three shapes of a RunPod job's input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import InvalidRequest
from handler.openai.errors import from_validation
from handler.openai.schema import ChatRequest, CompletionRequest, Items, Tenant

M = TypeVar("M", bound=BaseModel)


_NOT_SAMPLING: Final = frozenset({
    "prompt", "messages", "stream", "stream_options", "tools", "tool_choice", "parallel_tool_calls", "logprobs",
    "top_logprobs",
})
"""Fields of a request whose effect the output of a `TextInput` could not show, or that have a place of their own."""


class _Input(BaseModel):
    """What every input may say.

    Attributes:
        timeline: tell how the worker started, after the answer.
        tenant: on whose behalf this is, for the ledger; without it OpenAI's `user` is taken.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    timeline: bool = False
    tenant: Tenant | None = None


class OpenAIInput(_Input):
    """What RunPod hands over for a call below `/openai`: the path and the body."""

    openai_route: str
    openai_input: dict[str, Any] | None = None


class TextInput(_Input):
    """A prompt or messages, with vLLM's sampling parameters, as RunPod's vLLM worker takes them."""

    prompt: str | None = None
    messages: Annotated[Items[dict[str, Any]], Field(min_length=1)] | None = None
    sampling_params: dict[str, Any] = Field(default_factory=dict)
    stream: bool = False

    def request(self) -> CompletionRequest | ChatRequest:
        """The same as a request to OpenAI's API.

        Raises:
            InvalidRequest: not exactly one of prompt and messages.
            ApiError: a sampling parameter is wrong.
        """
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("a job's input needs either prompt or messages (or openai_route, or warmup)", "input")
        for name in _NOT_SAMPLING & self.sampling_params.keys():
            raise InvalidRequest(f"sampling_params: {name} is not supported there; use openai_route", "sampling_params")
        if self.messages is None:
            return parse(CompletionRequest, {**self.sampling_params, "prompt": self.prompt})
        return parse(ChatRequest, {**self.sampling_params, "messages": self.messages})


class WarmupInput(_Input):
    """Asks for nothing but a worker that is ready."""

    warmup: Literal[True]


JobInput = OpenAIInput | TextInput | WarmupInput


def parse_input(given: object) -> JobInput:
    """A job's input, told apart by the fields it has; raises `ApiError` naming what is wrong."""
    if not isinstance(given, Mapping):
        raise InvalidRequest("a job's input must be an object", "input")
    if "openai_route" in given:
        return parse(OpenAIInput, given)
    if "warmup" in given:
        return parse(WarmupInput, given)
    for name in given.keys() - TextInput.model_fields.keys():
        raise InvalidRequest(f"{name} is no field of a job's input; sampling parameters go into sampling_params", name)
    return parse(TextInput, given)


def parse(kind: type[M], given: object) -> M:
    """`given` as a model of this kind; raises `ApiError` naming what is wrong."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False)) from None
