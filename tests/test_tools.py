"""What splitting output into content and tool calls promises."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.chat import ChatTemplate
from engine.tools import ToolCall, ToolCallParser, supports_tools

WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
CALL = ToolCall("weather", '{"city": "Oslo"}')
BROKEN = [
    "<tool_call>\nweather in Oslo\n</tool_call>",
    '<tool_call>{"name": "weather", "arguments": {</tool_call>',
    '<tool_call>{"name": 1, "arguments": {}}</tool_call>',
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": "Oslo"}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"x": NaN}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"x": "\\ud800"}}</tool_call>',
    '<tool_call>["weather"]</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Os',
    "<tool_call>",
    "<tool_",
]
FRAGMENTS = [WEATHER, *BROKEN, "</tool_call>", "{", "}", "\n", " ", "<", "Hello", " there "]

outputs = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=8).map("".join)


def parse(*parts: str) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser()
    parsed = [*map(parser.push, parts), parser.flush()]
    return "".join(part.content for part in parsed), [call for part in parsed for call in part.calls]


@st.composite
def chunked(draw: st.DrawFn) -> list[str]:
    output = draw(outputs)
    cuts = sorted(draw(st.lists(st.integers(0, len(output)), max_size=12)))
    return [output[start:end] for start, end in pairwise([0, *cuts, len(output)])]


@settings(deadline=None, max_examples=300)
@given(parts=chunked())
def test_where_the_stream_is_cut_changes_nothing(parts: list[str]) -> None:
    whole = parse("".join(parts))
    assert parse(*parts) == whole
    assert parse(*"".join(parts)) == whole


@settings(deadline=None, max_examples=300)
@given(output=outputs)
def test_every_character_is_content_or_in_a_call_or_space_beside_one(output: str) -> None:
    content, calls = parse(output)
    letters = re.sub(r"\s", "", output)
    assert len(letters) == len(re.sub(r"\s", "", content)) + len(calls) * len(re.sub(r"\s", "", WEATHER))
    assert all(call == CALL for call in calls)
    if not calls:
        assert content == output


@settings(deadline=None, max_examples=300)
@given(text=st.text())
def test_only_what_may_stand_before_a_call_is_held_back(text: str) -> None:
    released = ToolCallParser().push(text).content
    held = text[len(released) :]
    assert "<tool_call>" in held or "<tool_call>".startswith(held.lstrip())


def test_a_call_is_taken_out_of_the_text_around_it() -> None:
    assert parse(f"Let me look.\n{WEATHER}\nDone.") == ("Let me look.Done.", [CALL])


def test_several_calls_come_in_their_order() -> None:
    other = WEATHER.replace("Oslo", "Rome")
    assert parse(f"\n\n{WEATHER}\n{other}\n") == ("", [CALL, ToolCall("weather", '{"city": "Rome"}')])


def test_a_call_comes_whole_with_its_closing_tag() -> None:
    parser = ToolCallParser()
    parsed = [parser.push(char) for char in WEATHER]
    assert [len(part.calls) for part in parsed] == [0] * (len(WEATHER) - 1) + [1]


def test_text_is_released_at_once_but_for_a_tags_beginning() -> None:
    parser = ToolCallParser()
    parts = ["Hi", " <tool", " box", " <", "3"]
    assert [parser.push(part).content for part in parts] == ["Hi", "", " <tool box", "", " <3"]


@pytest.mark.parametrize("broken", [*BROKEN, "<tool_call>" + "[" * 5000 + "</tool_call>"])
def test_what_only_looks_like_a_call_is_content(broken: str) -> None:
    assert parse(f"So: {broken}") == (f"So: {broken}", [])


def test_a_broken_call_does_not_hide_the_next() -> None:
    content, calls = parse(f"{BROKEN[0]}\n{WEATHER}")
    assert (content, calls) == (BROKEN[0], [CALL])


def test_arguments_are_json_text_without_escapes() -> None:
    (call,) = parse('<tool_call>{"name": "f", "arguments": {"a": "é\\n", "b": [1, null]}}</tool_call>')[1]
    assert call.arguments == '{"a": "é\\n", "b": [1, null]}'
    assert json.loads(call.arguments) == {"a": "é\n", "b": [1, None]}


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert parse('<tool_call>{"name": "now"}</tool_call>') == ("", [ToolCall("now", "{}")])


def test_tools_are_supported_when_the_template_writes_such_calls() -> None:
    assert supports_tools(ChatTemplate({"default": "{{ '<tool_call>' }}"}, {}))
    assert supports_tools(ChatTemplate({"default": "plain", "tool_use": "<tool_call>"}, {}))
    assert not supports_tools(ChatTemplate({"default": "{{ messages[0].content }}"}, {}))
