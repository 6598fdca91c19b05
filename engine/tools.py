"""Tool calls in a model's output, as Hermes and Qwen write them.

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn

from engine.chat import ChatTemplate

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for.

    Attributes:
        arguments: a JSON object as text.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a part of the output amounts to: content first, then calls, each call whole."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()


def supports_tools(template: ChatTemplate) -> bool:
    """Whether the model was taught to call tools in the form that is parsed here."""
    return OPEN_TAG in template.source(with_tools=True)


class ToolCallParser:
    """Splits a streamed output into content and tool calls; where the stream is cut changes nothing.

    A call ends at the first closing tag. White space beside a call is layout and is dropped. What only looks like a
    call (malformed JSON, another shape, no closing tag) is content, as the model wrote it.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._after_call = False

    def push(self, text: str) -> Parsed:
        """What has become certain. Content is held only while it may be the white space and the tag before a call."""
        self._pending += text
        content: list[str] = []
        calls: list[ToolCall] = []
        while (start := self._pending.find(OPEN_TAG)) >= 0:
            content.append(self._release(len(self._pending[:start].rstrip())))
            span, closed, _ = self._pending.partition(CLOSE_TAG)
            if not closed:
                return Parsed("".join(content), tuple(calls))
            call = _parse_call(span.strip().removeprefix(OPEN_TAG))
            if call is None:
                content.append(self._release(len(span + closed)))
            else:
                calls.append(self._take(call, len(span + closed)))
        content.append(self._release(len(self._pending) - _undecided(self._pending)))
        return Parsed("".join(content), tuple(calls))

    def flush(self) -> Parsed:
        """What was held back, at the end of the output."""
        return Parsed(self._release(len(self._pending)))

    def _release(self, length: int) -> str:
        """The next `length` pending characters, as content."""
        content, self._pending = self._pending[:length], self._pending[length:]
        if self._after_call:
            content = content.lstrip()
        self._after_call = self._after_call and not content
        return content

    def _take(self, call: ToolCall, length: int) -> ToolCall:
        self._pending = self._pending[length:]
        self._after_call = True
        return call


def _undecided(text: str) -> int:
    """Length of the end of `text` that may turn out to stand before a call: white space and the tag's beginning."""
    partial = max(length for length in range(len(OPEN_TAG)) if text.endswith(OPEN_TAG[:length]))
    return len(text) - len(text[: len(text) - partial].rstrip())


def _parse_call(text: str) -> ToolCall | None:
    """The call that stands between the tags, or None if it is none."""
    try:
        call = json.loads(text, parse_constant=_refuse_constant)
        name, arguments = call["name"], call.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        written = json.dumps(arguments, ensure_ascii=False)
        (name + written).encode()  # JSON may spell half a surrogate pair, which no response can carry
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return ToolCall(name, written)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
