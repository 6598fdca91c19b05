"""OpenAI's API without HTTP: a validated request in, an answer out."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from engine.chat import ChatTemplate
from engine.errors import ContextExceeded, InvalidRequest
from engine.request import SamplingParams
from engine.tools import supports_tools
from handler.account import Account
from handler.billing.lines import Asked
from handler.billing.recorder import Recorder
from handler.caller import Caller
from handler.metrics import Metrics
from handler.openai.answering import Answer
from handler.openai.errors import not_found
from handler.openai.generation import Generation
from handler.openai.responses import ModelCard, ModelList
from handler.openai.sampling import ModelDefaults, chat_params, check_fits, completion_params
from handler.openai.schema import ChatRequest, CompletionRequest, GenerationRequest
from handler.openai.writers import ChatWriter, CompletionWriter
from handler.rate_limits import Reservation
from handler.restore import RestoreWatch
from handler.settings import Settings

if TYPE_CHECKING:
    from engine.engine import Engine

_RENDER_PARAMETERS: Final = frozenset(signature(ChatTemplate.render).parameters)


class OpenAIService:
    """Answers requests with one engine.

    Every method that generates raises `PilotlightError` or `ApiError` for what is wrong with the request; the answer
    it returns is to be closed by the caller.
    """

    def __init__(self, engine: Engine, settings: Settings, watch: RestoreWatch, recorder: Recorder) -> None:
        self.engine = engine
        self.model_name = settings.served_model_name or engine.model.name
        self.metrics = Metrics(engine, self.model_name, watch.epochs, recorder)
        self._settings = settings
        self._watch = watch
        self._recorder = recorder
        self._defaults = ModelDefaults.from_folder(engine.model.folder)
        self._created = int(time.time())

    def models(self) -> ModelList:
        """The one model that is served."""
        return ModelList(object="list", data=[self._card()])

    def model(self, name: str) -> ModelCard:
        """The model of this name; raises `ApiError` 404 for any other."""
        self._check_model(name)
        return self._card()

    async def complete(self, request: CompletionRequest, caller: Caller) -> Answer:
        """Begin to answer POST /v1/completions."""
        self._check_model(request.model)
        params = completion_params(request, self._defaults)
        if not request.prompts:
            raise InvalidRequest("prompt must not be empty", "prompt")
        self._check_choices(len(request.prompts) * params.n)
        prompts = [await self._encode(prompt) for prompt in request.prompts]
        echo = [self._text(prompt) for prompt in request.prompts] if request.echo else None
        writer = CompletionWriter(self.engine.model.tokenizer, self.model_name, prompts, params.n, echo)
        generation = self._generate(writer.id, request, prompts, params, request.max_tokens, caller)
        return Answer(generation, writer, request.include_usage)

    async def chat(self, request: ChatRequest, caller: Caller) -> Answer:
        """Begin to answer POST /v1/chat/completions; see `complete`."""
        self._check_model(request.model)
        params = chat_params(request, self._defaults)
        self._check_choices(params.n)
        prompt = await asyncio.to_thread(self._encode_chat, request)
        writer = ChatWriter(self.engine.model.tokenizer, self.model_name, params.n, bool(request.offered_tools))
        generation = self._generate(writer.id, request, [prompt], params, request.length, caller)
        return Answer(generation, writer, request.include_usage)

    def _generate(
        self, name: str, request: GenerationRequest, prompts: Sequence[Sequence[int]], params: SamplingParams,
        max_tokens: int | None, caller: Caller,
    ) -> Generation:
        for prompt in prompts:
            check_fits(len(prompt), max_tokens, self.engine.plan.max_model_len)
        reservation = _reserve(caller, prompts, params)
        start_kind = self._watch.take_start_kind()
        self.metrics.count_start(start_kind)
        asked = Asked(name, start_kind, job=caller.job, tenant=caller.tenant or request.user)
        account = Account(self._recorder, asked, len(prompts) * params.n, sum(map(len, prompts)))
        return Generation(
            self.engine, self.metrics, account, prompts, params,
            priority=request.priority or 0, salt=cache_salt(caller.api_key, request.cache_salt),
            timeout=self._timeout_s(caller), reservation=reservation,
        )

    def _timeout_s(self, caller: Caller) -> float | None:
        bounds = (self._settings.request_timeout, caller.remaining_s)
        return min((bound for bound in bounds if bound is not None), default=None)

    def _encode_chat(self, request: ChatRequest) -> list[int]:
        # The template has written its own special tokens.
        text = self._render(request)
        self._check_length(text, "messages")
        return self.engine.model.tokenizer.encode(text, add_special_tokens=False, param="messages")

    def _render(self, request: ChatRequest) -> str:
        template = self.engine.model.chat_template
        if template is None:
            raise InvalidRequest(f"{self.model_name} has no chat template; use /v1/completions", "messages")
        tools: list[Mapping[str, object]] = [*request.offered_tools]
        if tools and not supports_tools(template):
            raise InvalidRequest(f"{self.model_name} was not made to call tools", "tools")
        return template.render(
            request.messages, tools, add_generation_prompt=request.opens_turn,
            continue_final_message=bool(request.continue_final_message), **_template_variables(request),
        )

    async def _encode(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        self._check_length(prompt, "prompt")
        return await asyncio.to_thread(self.engine.model.tokenizer.encode, prompt, True)

    def _check_length(self, text: str, param: str) -> None:
        """Refuse at once what would take seconds to encode and could never fit."""
        context = self.engine.plan.max_model_len
        if self.engine.model.tokenizer.surely_exceeds(text, context):
            raise ContextExceeded(f"{param}: {len(text)} characters are more than {context} tokens can hold", param)

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self.engine.model.tokenizer.decode(prompt, False)

    def _check_model(self, name: str | None) -> None:
        if name is not None and name != self.model_name:
            message = f"the model {name!r} does not exist; this is {self.model_name!r}"
            raise not_found(message, "model", "model_not_found")

    def _check_choices(self, choices: int) -> None:
        most = self._settings.max_choices
        if choices > most:
            raise InvalidRequest(f"n: {choices} choices are asked for, all prompts together; the bound is {most}", "n")

    def _card(self) -> ModelCard:
        return ModelCard(
            id=self.model_name, object="model", created=self._created, owned_by="pilotlight",
            max_model_len=self.engine.plan.max_model_len,
        )


def _reserve(caller: Caller, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Reservation | None:
    """Set aside what the request may use: its prompts, and of each choice the length that is asked for.

    A length that nobody named would be the rest of the context, which hardly any answer fills; what such an answer
    comes to is taken at its end.
    """
    if caller.allowance is None:
        return None
    return caller.allowance.reserve(sum(len(prompt) + params.n * (params.max_tokens or 0) for prompt in prompts))


def _template_variables(request: ChatRequest) -> dict[str, Any]:
    variables = request.chat_template_kwargs or {}
    for name in _RENDER_PARAMETERS & variables.keys():
        raise InvalidRequest(f"chat_template_kwargs: {name} has a field of its own", "chat_template_kwargs")
    return variables


def cache_salt(api_key: str | None, salt: str | None) -> bytes:
    """What a cached prefix is kept under: callers of one key, and of one salt among them, share; others never do.

    Without either, everybody shares.
    """
    if not api_key and not salt:
        return b""
    parts = [hashlib.sha256((part or "").encode(errors="surrogatepass")).digest() for part in (api_key, salt)]
    return hashlib.sha256(b"".join(parts)).digest()
