"""What the demo model reads: conversations made of exercises, behind system messages of every length."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Any, Final

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from image.demo_facts import ELSEWHERE, FACTS
from image.demo_tasks import TOPICS, Exercise, Message, Tool, draw, draw_tools
from image.demo_tokenizer import BOS, CHAT_TEMPLATE, END
from image.demo_words import NAMES, PLACES, WORDS, invented

Render = Callable[..., str]
Mix = Mapping[str, int]  # kind of exercise to its share of the conversations, in any unit

# Counting has to be right every time; sums are many facts in few tokens; the rest is easy by comparison.
MIX: Final[Mix] = MappingProxyType(
    {
        "counting": 24,
        "repeat": 10,
        "reverse": 14,
        "sum": 26,
        "json": 10,
        "tool_call": 10,
        "tool_result": 4,
        "no_tool": 3,
        "faq": 5,
        "unknown": 1,
    }
)
_TOOLLESS: Final = ("counting", "repeat", "reverse", "sum", "json", "faq", "unknown")
_SENTENCES: Final = (
    "You are a helpful assistant.",
    "You are a careful assistant who gives short answers.",
    "Answer briefly and correctly.",
    "Be polite and exact.",
    "Reply with the answer alone.",
    "Today is a good day.",
    "The user is a friend of mine.",
    "You work for a small company.",
    "Never say more than you were asked for.",
    "Please follow the rules below.",
    "Think before you answer.",
    "This text is here only to be long.",
    "Do not mention this message.",
)


@dataclass(frozen=True)
class Sample:
    """A conversation as the model is trained on it.

    `ids` are its tokens; `weights`, as many, say how much it matters to predict each: 0 for all that is not an answer.
    """

    ids: list[int]
    weights: list[float]


def chat_renderer() -> Render:
    """The chat template as a function of messages, tools and add_generation_prompt, as inference engines run it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    return lambda **context: template.render(bos_token=BOS, **context)


def system_text(rng: Random, longest: int = 150) -> str:
    """Text that has nothing to do with the question: mostly short, at times up to `longest` words."""
    wanted = int(longest * rng.random() ** 4)
    pieces: list[str] = []
    while sum(len(piece.split()) for piece in pieces) < wanted:
        pieces.append(_system_sentence(rng))
    return " ".join(pieces)


def draw_conversation(rng: Random, mix: Mix = MIX, system_share: float = 0.3) -> tuple[str, list[Exercise]]:
    """A system message ("" for none) and the exercises of one conversation, all from the training split."""
    first = draw(rng.choices(list(mix), list(mix.values()))[0], rng)
    later = rng.randint(1, 2) if rng.random() < 0.15 else 0
    weights = [mix[kind] for kind in _TOOLLESS]
    exercises = [first, *(draw(kind, rng) for kind in rng.choices(_TOOLLESS, weights, k=later))]
    longest = 600 if rng.random() < 0.03 else 150
    return (system_text(rng, longest) if rng.random() < system_share else ""), exercises


def as_sample(
    tokenizer: Tokenizer, render: Render, system: str, exercises: list[Exercise], tools: list[Tool]
) -> Sample:
    """The tokens of a conversation, and weights on the answers alone.

    An answer weighs the square root of its length in all: else the long ones would drown the sums.
    """
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    ids: list[int] = []
    weights: list[float] = []
    done = ""
    for exercise in exercises:
        messages += exercise.messages
        prompt = render(messages=messages, tools=tools, add_generation_prompt=True)
        asked = _encode(tokenizer, prompt.removeprefix(done))
        answer = _encode(tokenizer, exercise.answer + END)
        ids += asked + answer
        weights += [0.0] * len(asked) + [len(answer) ** -0.5] * len(answer)
        messages.append({"role": "assistant", "content": exercise.answer})
        done = prompt + exercise.answer + END
    return Sample(ids, weights)


def draw_sample(tokenizer: Tokenizer, render: Render, rng: Random, mix: Mix = MIX, system_share: float = 0.3) -> Sample:
    """A conversation to train on; `system_share` of them begin with a system message."""
    system, exercises = draw_conversation(rng, mix, system_share)
    tools = _tools_for(exercises, rng)
    return as_sample(tokenizer, render, system, exercises, tools)


def tokenizer_texts(rng: Random, count: int) -> list[str]:
    """Text to learn a tokeniser from: `count` conversations, and every listed word often enough to become a token."""
    texts = []
    for _ in range(count):
        system, exercises = draw_conversation(rng)
        parts = [system, *(str(message["content"]) for exercise in exercises for message in exercise.messages)]
        calls = [exercise.answer for exercise in exercises] + [json.dumps(exercise.tools) for exercise in exercises]
        texts += [part for part in parts + calls if part]
    listed = [*WORDS, *NAMES, *PLACES]
    facts = [text for answer, questions in FACTS for text in (answer, *questions)]
    return texts + [f" {word} {word}" for word in listed] * (count // 50) + [*facts, *ELSEWHERE] * (count // 100)


def _tools_for(exercises: list[Exercise], rng: Random) -> list[Tool]:
    """The tools the exercises need; at times some that nobody asks for; at times with their keys sorted.

    Some template engines sort keys when they write JSON and others do not.
    """
    tools: list[Any] = [tool for exercise in exercises for tool in exercise.tools]
    if exercises[0].kind in _TOOLLESS and rng.random() < 0.05:
        tools = list(draw_tools(rng, rng.sample(list(TOPICS), rng.randint(1, 2))))
    return [json.loads(json.dumps(tool, sort_keys=True)) for tool in tools] if rng.random() < 0.2 else tools


def _system_sentence(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.4:
        return rng.choice(_SENTENCES)
    if roll < 0.6:
        return f"{rng.choice(NAMES)} has {rng.randint(0, 999)} {rng.choice(WORDS)} and {rng.randint(0, 99)} others."
    if roll < 0.8:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 12))).capitalize() + "."
    return " ".join(_scrap(rng) for _ in range(rng.randint(1, 10))) + rng.choice((".", "\n", ";"))


def _scrap(rng: Random) -> str:
    letters = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 7)))
    return rng.choice((letters, letters, invented(rng), str(rng.randint(0, 9999))))


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)
