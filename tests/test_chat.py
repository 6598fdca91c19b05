"""What rendering a chat promises: transformers' text, one BOS, and a template that cannot leave its sandbox."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors

from engine.chat import ChatTemplate
from engine.errors import InvalidModel, InvalidRequest
from engine.text import Tokenizer

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "1 Jan 2026" %}
{%- endif %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {{- message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\nAnswer with <tool_call>\\n{\\"name\\": .., \\"arguments\\": ..}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}
        {%- set ns.last = messages|length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.reasoning_content is string and loop.index0 > ns.last %}
            {{- '\\n<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n' }}
        {%- endif %}
        {%- if message.content %}
            {{- '\\n' }}{% generation %}{{- message.content.split('</think>')[-1].lstrip('\\n') }}{% endgeneration %}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' + call.arguments | tojson + '}' }}
            {{- '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role == 'user' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

MISTRAL = """{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] %}{% set chat = messages[1:] %}
{%- else %}
{%- set system = '' %}{% set chat = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in chat %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- '[INST] ' + (system + '\\n\\n' if loop.last and system else '') + message['content'] + ' [/INST]' }}
{%- else %}
{{- ' ' + message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
"""

FAMILIES = {"llama": LLAMA, "qwen": QWEN, "mistral": MISTRAL}
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": " What's <b>1 + 1</b>? "}
CHAT = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "2"}, USER]
TOOL = {"type": "function", "function": {"name": "weather", "description": "it's <b>", "parameters": {"é": [1]}}}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Tromsø"}'}}
CALLING = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "sun"}]


def tokenizer_backend() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 256)])
    return backend


BACKEND = tokenizer_backend()
TOKENIZER = Tokenizer(BACKEND, SPECIAL_TOKENS, frozenset({257}))


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, SPECIAL_TOKENS)


def render(source: str, messages: list[Any] | None = None, **arguments: Any) -> str:
    return template(source).render([USER] if messages is None else messages, **arguments)


def refusal(source: str, messages: list[Any] | None = None, **arguments: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        render(source, messages, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


# The same text as transformers


def theirs(source: str, messages: list[Any], **arguments: Any) -> str:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=BACKEND, **SPECIAL_TOKENS)
    text: str = tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **arguments)
    return text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("messages", [[USER], CHAT, CHAT[:3]])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_chat_is_transformers_text(family: str, messages: list[Any], add_generation_prompt: bool) -> None:
    expected = theirs(FAMILIES[family], messages, add_generation_prompt=add_generation_prompt)
    assert render(FAMILIES[family], messages, add_generation_prompt=add_generation_prompt) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("last", ["The answer", "The answer ", " The answer\n"])
def test_a_continued_message_is_transformers_text(family: str, last: str) -> None:
    arguments = {"add_generation_prompt": False, "continue_final_message": True}
    messages = [USER, {"role": "assistant", "content": last}]
    rendered = render(FAMILIES[family], messages, **arguments)
    assert rendered == theirs(FAMILIES[family], messages, **arguments)
    assert rendered.rstrip().endswith("The answer")


def test_tools_and_their_calls_are_transformers_text() -> None:
    as_objects = json.loads(json.dumps(CALLING))
    as_objects[1]["tool_calls"][0]["function"]["arguments"] = {"city": "Tromsø"}
    expected = theirs(QWEN, as_objects, tools=[TOOL], add_generation_prompt=True)
    assert render(QWEN, CALLING, tools=[TOOL]) == render(QWEN, as_objects, tools=[TOOL]) == expected
    assert '"arguments": {"city": "Tromsø"}' in expected


def test_more_variables_reach_the_template() -> None:
    arguments: dict[str, Any] = {"enable_thinking": False, "bos_token": "<other>"}
    assert render(QWEN, **arguments) == theirs(QWEN, [USER], add_generation_prompt=True, **arguments)
    assert render("{{ bos_token }}{{ eos_token }}", bos_token="<other>") == "<other></s>"


@pytest.mark.parametrize(
    "options",
    ["", "indent=2", "separators=(',', ':')", "sort_keys=true", "ensure_ascii=true", "indent=1, sort_keys=true"],
)
def test_json_is_transformers_json(options: str) -> None:
    source = f"{{{{ tools[0] | tojson({options}) }}}}"
    assert render(source, tools=[TOOL]) == theirs(source, [USER], tools=[TOOL])


def test_the_date_is_todays() -> None:
    assert render("{{ strftime_now('%Y') }}") in {str(datetime.now().astimezone().year + late) for late in (0, -1)}


def test_a_rendered_chat_has_exactly_one_bos() -> None:
    for source in (LLAMA, MISTRAL):
        assert TOKENIZER.encode(render(source, CHAT), add_special_tokens=False).count(256) == 1
    assert TOKENIZER.encode("plain", add_special_tokens=True).count(256) == 1


# Messages in OpenAI's shape


def test_text_parts_become_one_string() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"


def test_fields_without_a_value_are_left_out() -> None:
    assert render("{{ messages[0].content is defined }}", [{"role": "assistant", "content": None}]) == "False"


def test_no_tools_are_no_tools() -> None:
    assert render("{{ tools is none }}", tools=[]) == render("{{ tools is none }}") == "True"


def test_the_callers_messages_are_left_alone() -> None:
    before = json.dumps(CALLING)
    render(QWEN, CALLING)
    render("{{ messages[0].content }}", [USER], continue_final_message=True, add_generation_prompt=False)
    assert json.dumps(CALLING) == before
    assert USER["content"] == " What's <b>1 + 1</b>? "


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", r"messages\[0\] must be an object with a role"),
        ({"content": "hello"}, "role"),
        ({"role": 1}, "role"),
        ({"role": "user", "content": 5}, "content must be a string or a list"),
        ({"role": "user", "content": ["hello"]}, "a part must be an object"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "'image_url' is not supported"),
        ({"role": "user", "content": [{"type": "text"}]}, "needs a string 'text'"),
        ({"role": "assistant", "tool_calls": {}}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": [{}]}, r"tool_calls\[0\] must hold a function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "must be a JSON obj"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}, "must be a JSON obj"),
    ],
)
def test_a_message_of_another_shape_is_refused_with_its_place(message: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        render("{{ messages }}", [message])
    assert caught.value.param == "messages"


@pytest.mark.parametrize("arguments", [None, ""])
def test_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    source = "{{ messages[0].tool_calls[0].function.arguments }}"
    assert render(source, [{"role": "assistant", "tool_calls": [call]}]) == "{}"


def test_no_messages_are_refused() -> None:
    assert refusal("x", []).param == "messages"


def test_only_an_existing_end_is_continued() -> None:
    assert "exclude" in str(refusal("x", continue_final_message=True))
    arguments = {"continue_final_message": True, "add_generation_prompt": False}
    assert "no content" in str(refusal("x", [{"role": "assistant"}], **arguments))
    assert "leaves out" in str(refusal("x", [USER], **arguments))


def test_half_a_surrogate_pair_in_a_message_is_the_requests_fault() -> None:
    text = render(LLAMA, [{"role": "user", "content": "\ud800"}])
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        TOKENIZER.encode(text, False, "messages")


# A template that fails, and one that means harm


def test_what_the_template_refuses_is_told() -> None:
    error = refusal(MISTRAL, [USER, USER])
    assert "Roles must alternate" in str(error)
    assert error.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].nothing.more }}", "{{ 1 / 0 }}", "{{ messages + 1 }}", "{{ nothing() }}",
        "{{ undefined_value | tojson }}", "{% for x in 5 %}{% endfor %}", "{{ [][0].x }}",
    ],
)
def test_a_template_that_fails_is_no_crash(source: str) -> None:
    assert "the chat template" in str(refusal(source))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__init__.__globals__['__builtins__'] }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% set _ = messages[0].pop('role') %}",
        "{% include 'secret' %}",
        "{% import 'os' as os %}",
    ],
)
def test_nothing_leaves_the_sandbox(source: str) -> None:
    refusal(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in range(999999) %}{% endfor %}",
        "{{ 'x' * 10000000000 }}", "{{ 100000000000 * [messages] }}", "{{ 9 ** 9 ** 9 }}",
        "{% for x in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_runaway_template_is_stopped(source: str) -> None:
    refusal(source)


# Where templates come from


def write(folder: Path, name: str, content: object) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def from_folder(folder: Path) -> ChatTemplate | None:
    return ChatTemplate.from_folder(folder, TOKENIZER)


def test_a_folder_may_have_no_template(tmp_path: Path) -> None:
    assert from_folder(tmp_path) is None
    write(tmp_path, "tokenizer_config.json", {"bos_token": "<s>"})
    assert from_folder(tmp_path) is None


def test_the_first_source_counts(tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "chat_template.json"):
        write(tmp_path, name, {"chat_template": name})
        found = from_folder(tmp_path)
        assert found is not None
        assert found.render([USER]) == name
    write(tmp_path, "chat_template.jinja", "file {{ bos_token }}")
    found = from_folder(tmp_path)
    assert found is not None
    assert found.render([USER]) == "file <s>"


@pytest.mark.parametrize("as_files", [True, False])
def test_the_template_for_tools_is_used_with_tools(tmp_path: Path, as_files: bool) -> None:
    if as_files:
        write(tmp_path, "chat_template.jinja", "plain")
        write(tmp_path, "additional_chat_templates/tool_use.jinja", "tools")
    else:
        both = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
        write(tmp_path, "tokenizer_config.json", {"chat_template": both})
    found = from_folder(tmp_path)
    assert found is not None
    assert (found.render([USER]), found.render([USER], tools=[TOOL])) == ("plain", "tools")
    assert (found.source(), found.source(with_tools=True)) == ("plain", "tools")


@pytest.mark.parametrize("value", [5, {"default": "x"}, ["x"], [], [{"name": "x"}], [{"name": "x", "template": 1}]])
def test_a_template_of_another_shape_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": value})
    with pytest.raises(InvalidModel, match=r"tokenizer_config\.json: chat_template"):
        from_folder(tmp_path)


@pytest.mark.parametrize("source", ["line one\n{% if %}", "\n{{ x", "\n{% nosuchtag %}", "\n{{ x | nosuchfilter }}"])
def test_a_syntax_error_is_found_at_load_with_its_line(tmp_path: Path, source: str) -> None:
    write(tmp_path, "chat_template.jinja", source)
    with pytest.raises(InvalidModel, match=rf"{tmp_path}: chat template 'default', line 2: ."):
        from_folder(tmp_path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidModel, match=r"chat_template\.jinja: "):
        from_folder(tmp_path)
