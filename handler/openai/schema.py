"""What may be asked. A field that is not here is refused by name, never accepted and ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from engine.errors import InvalidRequest

MAX_LOGPROBS = 20
"""Most likely tokens reported beside each chosen one: OpenAI's bound for chats, vLLM's default for both."""

MAX_BIASES = 1024
"""Token ids that `logit_bias` may name; OpenAI's bound is 300."""

TokenId = Annotated[int, Field(ge=0)]
Tenant = Annotated[str, Field(max_length=256)]
"""On whose behalf a request comes, in the caller's words."""

T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]
"""A list that is refused at its first wrong item: one error for each of millions would stop the server for minutes."""


def _kind_of_prompt(prompt: object) -> str:
    """What a prompt was meant to be, by its first item, so that only that is checked."""
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if isinstance(first, list):
        return "lists of ids"
    if isinstance(first, int):
        return "ids"
    return "texts" if isinstance(prompt, list) else "text"


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Items[str], Tag("texts")]
    | Annotated[Items[TokenId], Tag("ids")]
    | Annotated[Items[Items[TokenId]], Tag("lists of ids")],
    Discriminator(_kind_of_prompt),
]


def _few_biases(biases: object) -> object:
    if isinstance(biases, dict) and len(biases) > MAX_BIASES:
        raise ValueError(f"names {len(biases)} tokens; {MAX_BIASES} are the most")
    return biases


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Body):
    """`include_usage` adds a last chunk with the usage."""

    include_usage: bool | None = None


class ResponseFormat(_Body):
    """Only free text; structured output is refused by name."""

    type: Literal["text"] = "text"


class GenerationRequest(_Body):
    """What completions and chats have in common. None means the default, which may be the model's own.

    Ranges that the engine checks itself (temperature, penalties, ...) are left to it.

    Attributes:
        seed: the same seed gives the same answer, up to the last bits of the arithmetic.
        user: names the end user to whoever operates the server: the ledger's tenant. It changes nothing in the answer.
        priority: lower runs first.
        cache_salt: only requests with the same API key and the same salt share cached prefixes.
    """

    model: str | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_few_biases)] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=64)] | None = None
    stop_token_ids: Items[TokenId] | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Tenant | None = None
    priority: int | None = None
    cache_salt: str | None = None

    @model_validator(mode="after")
    def _options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """The body of POST /v1/completions.

    Attributes:
        prompt: a text, token ids, or a list of either.
        best_of: only the same number as `n`, which is what it means without ranking.
        echo: begin each choice with its prompt.
    """

    prompt: Prompt
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: None = None

    @model_validator(mode="after")
    def _best_of_is_n(self) -> Self:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidRequest("best_of is not supported unless it equals n", "best_of")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, texts or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(cast(list[str] | list[list[int]], self.prompt))


class FunctionDefinition(_Body):
    """`parameters` is a JSON schema. `strict` arguments would need structured output."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(_Body):
    """A tool the model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class ChatRequest(GenerationRequest):
    """The body of POST /v1/chat/completions.

    Attributes:
        messages: in OpenAI's shape; the model's chat template judges roles and order.
        max_completion_tokens: the newer name of `max_tokens`.
        tool_choice: `none` keeps the tools from the model.
        continue_final_message: go on with the last message instead of answering it.
        chat_template_kwargs: more variables for the template.
    """

    messages: Items[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Items[Tool] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs", "top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens differ; give one", "max_tokens")
        return self

    @property
    def length(self) -> int | None:
        """Tokens asked for, under either name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def opens_turn(self) -> bool:
        """Whether the template is to begin the assistant's message; not when the last one is continued."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    @property
    def offered_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is shown, as they were sent."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_unset=True) for tool in self.tools or ()]
