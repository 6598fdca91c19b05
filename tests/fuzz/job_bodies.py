"""Bodies of jobs as JSON text: near what is right, so that they come far, and far from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Values = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Raw:
    """JSON text, or what only looks like it."""

    text: str


@dataclass(frozen=True)
class Pairs:
    """An object that may name a field twice."""

    pairs: tuple[tuple[str, Any], ...]


def write(value: Any) -> str:
    """The value as JSON text."""
    match value:
        case Raw(text):
            return text
        case Pairs(pairs):
            return "{" + ",".join(f"{json.dumps(name)}:{write(item)}" for name, item in pairs) + "}"
        case dict():
            return write(Pairs(tuple(value.items())))
        case list():
            return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value)


GOOD = st.sampled_from(["Count from 3 to 7.", "Reverse: a b c", "Repeat: x y", "What is 3 + 4?"])
TEXT = st.one_of(
    GOOD, GOOD, GOOD, GOOD, GOOD,
    st.sampled_from([
        "Count from 3 to 7.", "Reverse: a b c", "", "\x00", "\ud800", "<|im_end|>", "é" * 300, "ab " * 90,
    ]),
    st.text(st.characters(), max_size=40),  # Halves of surrogate pairs among them.
    st.integers(1, 60_000).map(lambda size: "x " * size),
)
ODD = st.sampled_from([
    Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("-0.0"), Raw("9" * 400), Raw("9" * 5000), Raw("-1e-400"),
    Raw("[" * 500 + "]" * 500), Raw('{"a":' * 900 + "1" + "}" * 900), Raw("[" * 100_000), Raw('"\\ud83d"'), Raw(""),
    Raw("tru"), Raw('"\\x"'), Raw("01"), Raw("{]"), 2**31, 2**63, -(2**63) - 1, 2**64,
])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT, ODD)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def mostly(good: Values) -> Values:
    """What is good nineteen times in twenty."""
    return st.integers(0, 19).flatmap(lambda throw: JUNK if throw == 0 else good)


def some_of(fields: dict[str, Values], **needed: Values) -> Values:
    """An object with all that is needed and a few of the fields, sometimes one of them twice."""
    names = st.lists(st.sampled_from(sorted(fields)), max_size=3) if fields else st.just([])
    few = names.flatmap(
        lambda names: st.tuples(*(st.tuples(st.just(name), mostly(fields[name])) for name in names))
    )
    base = st.tuples(*(st.tuples(st.just(name), mostly(values)) for name, values in needed.items()))
    return st.tuples(base, few).map(lambda both: Pairs(both[0] + both[1]))


TOKENS = st.lists(st.integers(0, 600), max_size=30)
SAMPLING: dict[str, Values] = {
    "max_tokens": st.integers(1, 230), "min_tokens": st.integers(-1, 9), "n": st.integers(1, 6),
    "temperature": st.floats(0, 2.1), "top_p": st.floats(0.01, 1), "top_k": st.integers(-2, 700),
    "min_p": st.floats(0, 1), "presence_penalty": st.floats(-2, 2.1), "frequency_penalty": st.floats(-2, 2.1),
    "repetition_penalty": st.floats(0.01, 2), "seed": st.integers(-(2**63), 2**63),
    "stop": TEXT | st.lists(TEXT, max_size=4),
    "stop_token_ids": TOKENS, "ignore_eos": st.booleans(), "priority": st.integers(), "user": TEXT, "cache_salt": TEXT,
    "logit_bias": st.dictionaries(st.integers(-1, 600).map(str), st.floats(-200, 200), max_size=4),
    "skip_special_tokens": st.booleans(), "include_stop_str_in_output": st.booleans(),
    "model": st.sampled_from(["demo", "demo", "other"]),
}
ROLE = st.sampled_from(["user", "user", "user", "system", "assistant", "robot"])
TURN = some_of({}, role=ROLE, content=TEXT) | some_of({"name": TEXT, "tool_calls": JUNK}, role=ROLE, content=TEXT)
MESSAGES = st.lists(TURN, min_size=1, max_size=2)
PROMPT = st.one_of(TEXT, TOKENS, st.lists(TEXT, max_size=3), st.lists(TOKENS, max_size=3))
FUNCTION = some_of({"description": TEXT, "parameters": JUNK, "strict": st.booleans()}, name=TEXT)
TOOLS = st.lists(some_of({}, type=st.just("function"), function=FUNCTION), max_size=3)
STREAMED: dict[str, Values] = {
    "stream": st.booleans(), "stream_options": some_of({"include_usage": st.booleans()}),
}
CHAT: dict[str, Values] = {
    **SAMPLING, **STREAMED, "tools": TOOLS, "tool_choice": st.sampled_from(["auto", "none", "required"]),
    "logprobs": st.booleans(), "top_logprobs": st.integers(-1, 21),
    "response_format": some_of({"type": st.just("text")}),
    "continue_final_message": st.booleans(), "add_generation_prompt": st.booleans(), "chat_template_kwargs": JUNK,
}
COMPLETION: dict[str, Values] = {
    **SAMPLING, **STREAMED, "logprobs": st.integers(-1, 21), "echo": st.booleans(), "best_of": st.integers(0, 3),
}
EVERY: dict[str, Values] = {"timeline": st.booleans(), "tenant": TEXT}
INPUT = st.one_of(
    some_of({**EVERY, "sampling_params": some_of(SAMPLING), "stream": st.booleans()}, prompt=TEXT),
    some_of({**EVERY, "sampling_params": some_of(SAMPLING), "stream": st.booleans()}, messages=MESSAGES),
    some_of(
        EVERY, openai_route=st.just("/v1/chat/completions"), openai_input=some_of(CHAT, messages=MESSAGES)
    ),
    some_of(EVERY, openai_route=st.just("/v1/completions"), openai_input=some_of(COMPLETION, prompt=PROMPT)),
    some_of(EVERY, openai_route=TEXT | st.sampled_from(["/v1/models", "/v1/models/demo"]), openai_input=JUNK),
    some_of(EVERY, warmup=st.booleans()),
    JUNK,
)
PLAIN = some_of({"policy": some_of({"executionTimeout": st.integers(5000, 20_000)})}, input=INPUT)
ODD_JOB = some_of(
    {"policy": some_of({"executionTimeout": st.integers(0, 20_000)}), "webhook": TEXT, "id": TEXT}, input=INPUT
)
BODIES = st.one_of(PLAIN, PLAIN, PLAIN, ODD_JOB, JUNK).map(lambda body: write(body).encode(errors="surrogatepass"))
