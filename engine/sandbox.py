"""Where chat templates run: jinja2's sandbox, stricter still, because they come with the model and are foreign code.

Imported once there is a template: jinja2 takes a tenth of a second of a boot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from jinja2 import Template, Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import InvalidModel

MAX_RENDERED = 1 << 24
"""Characters a template may write; far above any context, far below what hurts the process."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """The sandbox, made stricter: no look at what is guarded, and no operator that fills the memory at once."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        if operator == "**":
            raise SecurityError("powers are not allowed")
        for repeated, times in ((left, right), (right, left)):
            if isinstance(times, int) and isinstance(repeated, str | list | tuple):
                _require_short(len(repeated) * times)
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: object, attribute: str) -> Undefined:
        raise SecurityError(f"attribute {attribute!r} of a {type(obj).__name__} is out of bounds")


class _GenerationTag(Extension):
    """`{% generation %}` marks what the assistant says, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def sandbox() -> ImmutableSandboxedEnvironment:
    """What transformers gives its templates (`utils/chat_template_utils.py`), so that theirs run unchanged."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def compile_template(environment: ImmutableSandboxedEnvironment, name: str, source: str) -> Template:
    """The template of that name, ready to be rendered.

    Raises:
        InvalidModel: it has a syntax error.
    """
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InvalidModel(f"chat template {name!r}, line {error.lineno}: {one_line(error)}") from error
    except Exception as error:  # jinja2 works out constants here, so anything can be raised
        raise InvalidModel(f"chat template {name!r}: {one_line(error)}") from error


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | str | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: jinja2's own filter escapes `<`, `>`, `&` and `'` for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _require_short(length: int) -> None:
    if length > MAX_RENDERED:
        raise TemplateRuntimeError(f"more than {MAX_RENDERED} characters")


def bounded(parts: Iterable[str]) -> str:
    """What a template writes, piece by piece.

    Raises:
        TemplateRuntimeError: it is longer than `MAX_RENDERED`.
    """
    written, length = [], 0
    for part in parts:
        length += len(part)
        _require_short(length)
        written.append(part)
    return "".join(written)


def one_line(error: Exception) -> str:
    """What an error says, on one line, not for ever."""
    return " ".join(str(error).split())[:500] or type(error).__name__
