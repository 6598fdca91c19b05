"""The `openai` package gets right answers, streamed and not."""

from __future__ import annotations

import json

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count from 3 to 7."}]
COUNTED = "3 4 5 6 7"
WEATHER: list[ChatCompletionToolParam] = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}]
ASK_WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Oslo?"}]
TEMPLATE = "<|begin_of_text|><|user|>Count from {} to {}.<|end_of_turn|><|assistant|>"


def test_models(openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["demo"]
    assert openai.models.retrieve("demo").id == "demo"


def test_chat(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="demo", messages=COUNT)
    assert answer.choices[0].message.content == COUNTED
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


def test_streamed_chat(openai: OpenAI) -> None:
    stream = openai.chat.completions.create(
        model="demo", messages=COUNT, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == COUNTED
    assert len(chunks) > 3
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [6]


def test_completion_of_texts_and_of_token_ids(openai: OpenAI) -> None:
    answer = openai.completions.create(
        model="demo", prompt=[TEMPLATE.format(3, 7), TEMPLATE.format(20, 22)], temperature=0
    )
    assert [choice.text for choice in answer.choices] == [COUNTED, "20 21 22"]
    ids = openai.completions.create(model="demo", prompt=[1, 4, 5], max_tokens=1)
    assert ids.usage is not None
    assert ids.usage.prompt_tokens == 3


def test_streamed_completion(openai: OpenAI) -> None:
    stream = openai.completions.create(model="demo", prompt=TEMPLATE.format(3, 7), temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == COUNTED


def test_several_choices(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="demo", messages=COUNT, n=2, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert {choice.message.content for choice in answer.choices} == {COUNTED}


def test_choices_of_one_seed_differ_and_come_again(openai: OpenAI) -> None:
    def answers() -> list[str | None]:
        answer = openai.chat.completions.create(
            model="demo", messages=COUNT, n=4, seed=5, temperature=2, max_tokens=20
        )
        return [choice.message.content for choice in answer.choices]

    first = answers()
    assert len(set(first)) > 1
    assert answers() == first


@pytest.mark.parametrize(("stop", "text"), [(" 6", "3 4 5"), (["9", "5 6"], "3 4 ")])
def test_stop_strings_end_the_text_before_them(openai: OpenAI, stop: str | list[str], text: str) -> None:
    answer = openai.chat.completions.create(model="demo", messages=COUNT, stop=stop)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"


def test_length(openai: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = openai.chat.completions.create(model="demo", messages=COUNT, extra_body={name: 2})
        assert answer.choices[0].message.content == "3 4"
        assert answer.choices[0].finish_reason == "length"


def test_chat_logprobs(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="demo", messages=COUNT, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content).startswith(COUNTED)
    for token in logprobs.content:
        assert token.top_logprobs[0].token == token.token, "greedy takes the likeliest"
        assert len(token.top_logprobs) == 2
        assert token.logprob <= 0
        assert bytes(token.bytes or []).decode() == token.token


def test_completion_logprobs_with_echo(openai: OpenAI) -> None:
    prompt = TEMPLATE.format(3, 7)
    answer = openai.completions.create(model="demo", prompt=prompt, temperature=0, logprobs=1, echo=True)
    [choice] = answer.choices
    assert choice.text == prompt + COUNTED
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs is not None
    assert answer.usage is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == answer.usage.total_tokens
    assert logprobs.token_logprobs[0] is None
    assert all(value is not None for value in logprobs.token_logprobs[1:])


def test_tool_call(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="demo", messages=ASK_WEATHER, tools=WEATHER)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def test_streamed_tool_call(openai: OpenAI) -> None:
    with openai.chat.completions.stream(model="demo", messages=ASK_WEATHER, tools=WEATHER) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls is not None
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {"city": "Oslo"}


def test_answer_to_a_tools_result(openai: OpenAI) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [*ASK_WEATHER, {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "7 degrees"}]
    answer = openai.chat.completions.create(model="demo", messages=messages, tools=WEATHER)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "It is 7 degrees."


def test_tools_are_kept_from_the_model_by_tool_choice_none(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="demo", messages=ASK_WEATHER, tools=WEATHER, tool_choice="none")
    assert answer.choices[0].message.tool_calls is None


def test_final_message_is_continued(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [*COUNT, {"role": "assistant", "content": "3 4"}]
    answer = openai.chat.completions.create(
        model="demo", messages=messages, extra_body={"continue_final_message": True}
    )
    assert answer.choices[0].message.content == " 5 6 7"


def test_bias_and_stop_tokens_and_min_tokens(openai: OpenAI) -> None:
    ids = openai.completions.create(model="demo", prompt=TEMPLATE.format(3, 7), temperature=0, logprobs=0, max_tokens=1)
    assert ids.choices[0].text == "3"
    answer = openai.chat.completions.create(model="demo", messages=COUNT, extra_body={"min_tokens": 9, "max_tokens": 9})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


def test_errors_are_the_clients_own_types(openai: OpenAI) -> None:
    with pytest.raises(openai_error("NotFoundError"), match="does not exist"):
        openai.chat.completions.create(model="other", messages=COUNT)
    with pytest.raises(openai_error("BadRequestError"), match="temperature"):
        openai.chat.completions.create(model="demo", messages=COUNT, temperature=-1)


def openai_error(name: str) -> type[openai.APIStatusError]:
    found: type[openai.APIStatusError] = getattr(openai, name)
    return found
