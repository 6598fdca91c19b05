"""From a request's fields to `SamplingParams`, with the model's own defaults where the request says nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from engine.errors import ContextExceeded, InvalidModel, InvalidRequest
from engine.request import SamplingParams
from handler.openai.schema import ChatRequest, CompletionRequest, GenerationRequest

COMPLETION_TOKENS: Final = 16
"""What OpenAI generates for a completion that does not say how much."""

_TOKEN_ID: Final = re.compile("[0-9]{1,9}")
_SHARED: Final = (
    "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "seed", "stop_token_ids", "min_tokens", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output",
)


class ModelDefaults(BaseModel):
    """The model folder's generation_config.json, in as far as vLLM applies it to requests; the rest is not ours.

    Differs from vLLM in two points. An explicit `do_sample: false` means greedy, as it does in transformers. And
    `max_new_tokens` is a chat's default length, not a limit on what may be asked.
    """

    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None

    @classmethod
    def from_folder(cls, folder: Path) -> ModelDefaults:
        """The folder's defaults; none when it has no such file.

        Raises:
            InvalidModel: the file is not what it should be.
        """
        file = folder / "generation_config.json"
        try:
            return cls.model_validate_json(file.read_bytes()) if file.exists() else cls()
        except ValidationError as error:
            raise InvalidModel(f"{file}: {error.errors()[0]['msg']}") from error

    def sampling(self) -> dict[str, Any]:
        """The defaults under the names of `SamplingParams`."""
        given = self.model_dump(exclude_none=True, exclude={"do_sample", "max_new_tokens"})
        return {**given, "temperature": 0.0} if self.do_sample is False else given


def completion_params(request: CompletionRequest, defaults: ModelDefaults) -> SamplingParams:
    """How to sample a completion; raises `InvalidRequest`, naming the field."""
    prompt_logprobs = request.logprobs if request.echo else None
    length = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    return SamplingParams(
        **_shared(request, defaults), max_tokens=length, logprobs=request.logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def chat_params(request: ChatRequest, defaults: ModelDefaults) -> SamplingParams:
    """How to sample a chat's answer; without a length it may fill the context. Raises as `completion_params`."""
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    length = request.length if request.length is not None else defaults.max_new_tokens
    return SamplingParams(**_shared(request, defaults), max_tokens=length, logprobs=logprobs)


def check_fits(prompt_tokens: int, asked: int | None, max_model_len: int) -> None:
    """Refuse what cannot be given, rather than cut it short.

    Raises:
        ContextExceeded: the prompt and the tokens asked for are more than the context.
    """
    if asked is not None and prompt_tokens + asked > max_model_len:
        raise ContextExceeded(
            f"the prompt has {prompt_tokens} tokens and max_tokens is {asked}; the context holds {max_model_len}",
            "max_tokens",
        )


def _shared(request: GenerationRequest, defaults: ModelDefaults) -> dict[str, Any]:
    given = {name: value for name in _SHARED if (value := getattr(request, name)) is not None}
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return {**defaults.sampling(), **given, "stop": stop, "logit_bias": _logit_bias(request)}


def _logit_bias(request: GenerationRequest) -> dict[int, float] | None:
    """JSON's keys are strings; OpenAI's are token ids."""
    for key in request.logit_bias or ():
        if _TOKEN_ID.fullmatch(key) is None:
            raise InvalidRequest(f"logit_bias: {key[:20]!r} is not a token id", "logit_bias")
    return {int(key): value for key, value in (request.logit_bias or {}).items()} or None
