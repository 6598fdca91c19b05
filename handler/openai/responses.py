"""The shapes of what is answered: https://platform.openai.com/docs/api-reference, with vLLM's `stop_reason`."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

Finished = Literal["stop", "length", "tool_calls"]


class PromptDetails(TypedDict):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens. Several choices of one prompt count it once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class CompletionLogprobs(TypedDict):
    """Lists of one length. `text_offset` is in characters from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """The same in a chunk and in a whole answer; in a chunk the text is what is new."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finished | None
    stop_reason: str | int | None


class Completion(TypedDict):
    """A whole answer, or one chunk of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class TopLogprob(TypedDict):
    """A token that was likely. `bytes` is its UTF-8, which the token's text may show in part only."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A chosen token and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log probabilities of a chat's output."""

    content: list[ChatTokenLogprob]


class Function(TypedDict):
    """The function that is called; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """`index`, the call's place in the message, is in chunks only."""

    index: NotRequired[int]
    id: str
    type: Literal["function"]
    function: Function


class Delta(TypedDict, total=False):
    """What a chunk adds to a message."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCall]


class ChatChunkChoice(TypedDict):
    """One choice's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finished | None
    stop_reason: str | int | None


class ChatChunk(TypedDict):
    """A chunk of a chat's answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]


class Message(TypedDict):
    """`content` is None when the message is tool calls alone."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One choice of a whole answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Finished | None
    stop_reason: str | int | None


class ChatCompletion(TypedDict):
    """A chat's whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(TypedDict):
    """A model that is served; the context is vLLM's addition."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(TypedDict):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


Chunk = Completion | ChatChunk
Whole = Completion | ChatCompletion
