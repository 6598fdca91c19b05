"""Messages to prompt text through the model folder's chat template, which is foreign code and runs in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidModel, InvalidRequest
from engine.text import Tokenizer, read_json_object

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]
"""A chat message in OpenAI's shape."""

_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """The chat template of a model folder, compiled once.

    A rendered text holds the special tokens it needs, so it is encoded with `add_special_tokens=False`.
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        from engine.sandbox import compile_template, sandbox

        environment = sandbox()
        self._sources = sources
        self._templates = {name: compile_template(environment, name, source) for name, source in sources.items()}
        self._special_tokens = special_tokens

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The folder's template, from where transformers takes it; None when there is no default one.

        Raises:
            InvalidModel: a file cannot be read, or a template has a syntax error.
        """
        sources = _read_sources(folder)
        try:
            return cls(sources, tokenizer.special_tokens) if "default" in sources else None
        except InvalidModel as error:
            raise InvalidModel(f"{folder}: {error}") from error

    def source(self, with_tools: bool = False) -> str:
        """The template's own text; with tools the one named `tool_use` where there is one."""
        return self._sources[self._name(with_tools)]

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True, continue_final_message: bool = False, **template_kwargs: object,
    ) -> str:
        """The prompt's text.

        A content of several text parts becomes one string, joined by newlines as vLLM does for templates that expect
        strings. A tool call's arguments become an object if they are JSON text. Fields that are None are left out.

        Args:
            tools: in OpenAI's shape; empty means none.
            continue_final_message: end inside the last message, for the model to go on with it.
            template_kwargs: more variables for the template; they win over the special tokens.

        Raises:
            InvalidRequest: messages of another shape, or ones the template refuses or fails on, with its reason.
        """
        chat = [_message(message, index) for index, message in enumerate(messages)]
        if not chat:
            raise InvalidRequest("messages must not be empty", "messages")
        if continue_final_message:
            _mark_end(chat, add_generation_prompt)
        rendered = self._run(
            self._templates[self._name(bool(tools))],
            {"messages": chat, "tools": tools or None, "add_generation_prompt": add_generation_prompt},
            template_kwargs,
        )
        return _cut_at_mark(rendered) if continue_final_message else rendered

    def _name(self, with_tools: bool) -> str:
        return "tool_use" if with_tools and "tool_use" in self._sources else "default"

    def _run(self, template: Template, arguments: dict[str, Any], template_kwargs: dict[str, object]) -> str:
        from engine.sandbox import bounded, one_line

        try:
            return bounded(template.generate({**self._special_tokens, **template_kwargs, **arguments}))
        except Exception as error:  # the template is foreign code: whatever it raises is about this request
            raise InvalidRequest(f"the chat template refuses these messages: {one_line(error)}", "messages") from error


def _message(message: Message, index: int) -> dict[str, Any]:
    """A copy of the message as templates expect it."""
    where = f"messages[{index}]"
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{where} must be an object with a role", "messages")
    copy = {name: value for name, value in message.items() if value is not None}
    if "content" in copy:
        copy["content"] = _content(copy["content"], where)
    if "tool_calls" in copy:
        copy["tool_calls"] = _tool_calls(copy["tool_calls"], where)
    return copy


def _content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}.content must be a string or a list of text parts", "messages")
    return "\n".join(_part_text(part, where) for part in content)


def _part_text(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{where}.content: a part must be an object", "messages")
    kind = part.get("type")
    if kind != "text":
        raise InvalidRequest(f"{where}.content: a part of type {kind!r} is not supported, only 'text' is", "messages")
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.content: a text part needs a string 'text'", "messages")
    return text


def _tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where}.tool_calls must be a list", "messages")
    return [_tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _tool_call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where} must hold a function with a name", "messages")
    return {**call, "function": {**function, "arguments": _arguments(function.get("arguments"), where)}}


def _arguments(arguments: object, where: str) -> Mapping[str, Any]:
    """OpenAI sends a call's arguments as JSON text; templates write the object."""
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str | None) else arguments
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where}.function.arguments must be a JSON object", "messages")
    return value


def _mark_end(chat: list[dict[str, Any]], add_generation_prompt: bool) -> None:
    """Marks the end of the last content, to find it again behind what the template does to it (transformers' way)."""
    if add_generation_prompt:
        message = "continue_final_message and add_generation_prompt exclude each other"
        raise InvalidRequest(message, "continue_final_message")
    if "content" not in chat[-1]:
        raise InvalidRequest("the last message has no content to continue", "continue_final_message")
    chat[-1]["content"] += _CONTINUE_TAG


def _cut_at_mark(rendered: str) -> str:
    head, mark, tail = rendered.rpartition(_CONTINUE_TAG.rstrip())
    if not mark:
        raise InvalidRequest("the chat template leaves out the last message's content", "continue_final_message")
    # A template that trims contents has taken the mark's own space, so it would have taken the content's too.
    return head if tail.startswith(" ") else head.rstrip()


def _read_sources(folder: Path) -> dict[str, str]:
    """Templates by name; files come before tokenizer_config.json, as in transformers."""
    file = folder / "chat_template.jinja"
    sources = {"default": _read_template(file)} if file.is_file() else _read_json_sources(folder)
    extra = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return sources | {file.stem: _read_template(file) for file in extra}


def _read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{file}: {error}") from error


def _read_json_sources(folder: Path) -> dict[str, str]:
    for file in (folder / "chat_template.json", folder / "tokenizer_config.json"):
        value = read_json_object(file).get("chat_template")
        if value is not None:
            return _named_sources(value, file)
    return {}


def _named_sources(value: object, file: Path) -> dict[str, str]:
    """The templates in a `chat_template` entry: text, or a list of `{"name", "template"}`."""
    items = [{"name": "default", "template": value}] if isinstance(value, str) else value
    try:
        sources = {item["name"]: item["template"] for item in items}  # type: ignore[attr-defined]
    except (TypeError, KeyError):
        sources = {}
    if not sources or not all(isinstance(text, str) for text in sources.values()):
        raise InvalidModel(f"{file}: chat_template must be a text or a list of names and templates")
    return sources
