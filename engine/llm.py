"""The engine offline: prompts in, answers out, in this thread. Names are those vLLM's users know."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.engine import new_requests
from engine.errors import InvalidRequest
from engine.request import Event, Finish, FinishReason, SamplingParams, TokenLogprob
from engine.start import Start


@dataclass(slots=True)
class CompletionOutput:
    """One choice of an answer."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def finish_reason(self) -> str | None:
        return self.finish.reason.value if self.finish else None

    def add(self, event: Event) -> None:
        """Take in what a step added."""
        self.text += event.text
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        self.finish = event.finish or self.finish


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def finished(self) -> bool:
        return all(output.finish for output in self.outputs)


class LLM:
    """A model to call from a program of one's own.

        llm = LLM("demo")
        [answer] = llm.chat([[{"role": "user", "content": "Count from 3 to 7."}]], SamplingParams(temperature=0))
        answer.outputs[0].text

    Args:
        model: `demo`, a folder, or a hub id.
        start: what the caller has begun already.
        settings: fields of `EngineConfig`.

    Raises:
        PilotlightError: the model cannot be found, read or fitted.
    """

    def __init__(self, model: str = "demo", *, start: Start | None = None, **settings: Any) -> None:
        unknown = settings.keys() - {setting.name for setting in fields(EngineConfig)}
        if unknown:
            raise TypeError(f"LLM has no setting {min(unknown)}")
        self.booted: Booted = boot_core(EngineConfig(model=model, **settings), start)
        self._order = itertools.count()

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> list[RequestOutput]:
        """Complete prompts, texts or token ids, batched as memory allows; answers come in the prompts' order.

        Args:
            params: for all prompts, or one a prompt.
            on_event: called with every event as it happens.

        Raises:
            InvalidRequest: a prompt or its parameters can never succeed; nothing was computed.
        """
        several: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        each = [params or SamplingParams()] * len(several) if not isinstance(params, Sequence) else list(params)
        if len(each) != len(several):
            raise InvalidRequest(f"{len(several)} prompts but {len(each)} sampling parameters", "params")
        outputs = [self._output(prompt, sampling) for prompt, sampling in zip(several, each, strict=True)]
        choices = [self._requests(output, sampling) for output, sampling in zip(outputs, each, strict=True)]
        for request in itertools.chain.from_iterable(choices):
            self.booted.core.add(request)
        return self._drive({output.request_id: output for output in outputs}, on_event)

    def chat(
        self, conversations: Sequence[Sequence[dict[str, Any]]], params: SamplingParams | None = None, **template: Any
    ) -> list[RequestOutput]:
        """Answer conversations, each a list of messages, through the model's chat template.

        Raises:
            InvalidRequest: as `generate`, or the model has no chat template.
        """
        chat_template = self.booted.model.chat_template
        if chat_template is None:
            raise InvalidRequest(f"the model {self.booted.model.name} has no chat template")
        encode = self.booted.model.tokenizer.encode
        texts = [chat_template.render(list(messages), **template) for messages in conversations]
        return self.generate([encode(text, add_special_tokens=False) for text in texts], params)

    def _output(self, prompt: str | Sequence[int], params: SamplingParams) -> RequestOutput:
        text = prompt if isinstance(prompt, str) else None
        tokens = (
            self.booted.model.tokenizer.encode(prompt, add_special_tokens=True)
            if isinstance(prompt, str) else list(prompt)
        )
        return RequestOutput(str(next(self._order)), text, tokens, [CompletionOutput(i) for i in range(params.n)])

    def _requests(self, output: RequestOutput, params: SamplingParams) -> list[Any]:
        return new_requests(
            output.prompt_token_ids, replace(params), request_id=output.request_id, order=self._order.__next__,
            max_model_len=self.booted.plan.max_model_len, vocab_size=self.booted.model.vocab_size,
        )

    def _drive(self, outputs: dict[str, RequestOutput], on_event: Callable[[Event], None]) -> list[RequestOutput]:
        core = self.booted.core
        try:
            while core.has_work:
                for event in core.step():
                    on_event(event)
                    output = outputs[event.request_id]
                    output.prompt_logprobs = event.prompt_logprobs or output.prompt_logprobs
                    output.outputs[event.choice].add(event)
                core.defer()
        finally:
            core.abort_all(FinishReason.ABORTED)
        return list(outputs.values())
