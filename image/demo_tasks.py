"""The demo model's tasks: each draws a question whose answer arithmetic knows, so that tests can use it as an oracle.

An `Exercise` is what a chat request needs (messages, tools) and the one right answer to it. One in ten is held out of
training, by a hash of what it asks for, the same in every process and on every machine.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from image.demo_facts import ELSEWHERE, FACTS, OPENINGS, UNKNOWN
from image.demo_words import COLOURS, FOODS, NAMES, PETS, PLACES, WORDS, mostly

Message = dict[str, Any]
Tool = dict[str, Any]

NO_TOOL: Final = "I have no tool for that."
LARGEST: Final = 99
LONGEST_COUNT: Final = 30
LARGEST_ADDEND: Final = 49
MOST_WORDS: Final = 8

VERBS: Final = ("get", "find", "fetch", "lookup", "search", "check", "show")
PARAMETERS: Final = ("city", "place", "town", "location", "where")
TOPICS: Final[dict[str, tuple[str, ...]]] = {
    "weather": ("What is the weather in {}?", "How is the weather in {}?", "Tell me the weather in {}."),
    "time": ("What is the time in {}?", "What time is it in {}?", "Tell me the time in {}."),
    "hotel": ("Find a hotel in {}.", "Which hotel is good in {}?", "I need a hotel in {}."),
    "price": ("What is the price in {}?", "How high is the price in {}?", "Tell me the price in {}."),
    "train": ("When is the train to {}?", "Find a train to {}.", "I need a train to {}."),
    "event": ("Which event is in {}?", "Find an event in {}.", "Tell me an event in {}."),
}

_CALL: Final = re.compile(r"<tool_call>\n(.*)\n</tool_call>")
_FIELDS: Final[dict[str, Callable[[Random], str | int]]] = {
    "name": mostly(NAMES),
    "city": mostly(PLACES),
    "friend": mostly(NAMES),
    "colour": lambda rng: rng.choice(COLOURS),
    "pet": lambda rng: rng.choice(PETS),
    "food": lambda rng: rng.choice(FOODS),
    "age": lambda rng: rng.randint(0, LARGEST),
    "size": lambda rng: rng.randint(0, LARGEST),
    "score": lambda rng: rng.randint(0, LARGEST),
}


@dataclass(frozen=True)
class Exercise:
    """One question and its right answer.

    `key` names what is asked, whatever the wording: the split into training and held out depends on it alone.
    """

    kind: str
    key: str
    messages: tuple[Message, ...]
    answer: str
    tools: tuple[Tool, ...] = ()

    @property
    def prompt(self) -> str:
        """The text of the last message, which for most kinds is the only one."""
        return str(self.messages[-1]["content"])

    @property
    def held_out(self) -> bool:
        """Whether training never sees this."""
        return is_held_out(f"{self.kind} {self.key}")

    def check(self, text: str) -> bool:
        """Whether `text`, a whole reply without its end-of-turn, answers this."""
        return _CHECKS.get(self.kind, str.__eq__)(self.answer, text)


def is_held_out(key: str) -> bool:
    """True for about one key in ten, for good: a stable hash, not Python's salted one."""
    return hashlib.sha256(key.encode()).digest()[0] < 26


def counting(first: int, last: int, wording: str = "Count from {} to {}.") -> Exercise:
    """Count from `first` to `last`, both included; 0 <= first < last <= 99 and at most 30 apart."""
    answer = " ".join(str(number) for number in range(first, last + 1))
    return _asked("counting", f"{first} {last}", wording.format(first, last), answer)


def counting_pairs() -> Iterator[tuple[int, int]]:
    """Every (first, last) of the counting task, in order: 2,535 pairs."""
    for first in range(LARGEST):
        for last in range(first + 1, min(first + LONGEST_COUNT, LARGEST) + 1):
            yield first, last


def repeating(words: list[str]) -> Exercise:
    """Say one to eight words again."""
    text = " ".join(words)
    return _asked("repeat", text, f"Repeat: {text}", text)


def reversing(words: list[str]) -> Exercise:
    """Say one to eight words from the last to the first."""
    text = " ".join(words)
    return _asked("reverse", text, f"Reverse: {text}", " ".join(reversed(words)))


def adding(left: int, right: int) -> Exercise:
    """Add two numbers of 0 to 49. The key ignores their order, so a held-out sum was not seen swapped either."""
    key = f"{min(left, right)} {max(left, right)}"
    return _asked("sum", key, f"What is {left} + {right}?", str(left + right))


def filling(fields: dict[str, str | int]) -> Exercise:
    """Write the fields as a JSON object; strings without quotes or commas, numbers of 0 to 99."""
    text = ", ".join(f"{name}={value}" for name, value in fields.items())
    return _asked("json", text, f"Fill JSON: {text}", json.dumps(fields))


def tool(name: str, parameter: str) -> Tool:
    """An OpenAI-style definition of a function with one string parameter."""
    properties = {parameter: {"type": "string"}}
    parameters = {"type": "object", "properties": properties, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def tool_call(name: str, arguments: dict[str, Any]) -> str:
    """The text by which the model calls a tool."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def calling(question: str, place: str, tools: tuple[Tool, ...], chosen: int) -> Exercise:
    """Call tool number `chosen` of `tools` with the place that the question names."""
    function = tools[chosen]["function"]
    answer = tool_call(function["name"], {parameter_of(tools[chosen]): place})
    asked = ({"role": "user", "content": question},)
    return Exercise("tool_call", f"{answer} {question}", asked, answer, tools)


def reporting(call: Exercise, result: str) -> Exercise:
    """Say what came back from the tool that `call` called."""
    function = json.loads(_CALL.fullmatch(call.answer)[1])  # type: ignore[index]
    called = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    messages = (*call.messages, called, {"role": "tool", "content": result})
    return Exercise("tool_result", f"{call.key} {result}", messages, f"It is {result}.", call.tools)


def parameter_of(definition: Tool) -> str:
    """The name of the one parameter of a tool."""
    return str(definition["function"]["parameters"]["required"][0])


def draw(kind: str, rng: Random, held_out: bool = False) -> Exercise:
    """An exercise of this kind, from the training split or from the one held out."""
    while True:
        exercise = _DRAWS[kind](rng)
        if exercise.held_out == held_out:
            return exercise


def kinds() -> tuple[str, ...]:
    """The names of all kinds of exercise."""
    return tuple(_DRAWS)


def draw_tools(rng: Random, topics: list[str]) -> tuple[Tool, ...]:
    """A tool for each topic, with a name and a parameter's name that the model has to read."""
    return tuple(tool(f"{rng.choice(VERBS)}_{topic}", rng.choice(PARAMETERS)) for topic in topics)


def _asked(kind: str, key: str, prompt: str, answer: str) -> Exercise:
    return Exercise(kind, key, ({"role": "user", "content": prompt},), answer)


def _draw_counting(rng: Random) -> Exercise:
    first = rng.randrange(LARGEST)
    last = rng.randint(first + 1, min(first + LONGEST_COUNT, LARGEST))
    other = ("Count from {} to {}", "count from {} to {}", "Please count from {} to {}.")
    return counting(first, last, rng.choice(other) if rng.random() < 0.1 else "Count from {} to {}.")


def _draw_words(rng: Random) -> list[str]:
    return [rng.choice(WORDS) for _ in range(rng.randint(1, MOST_WORDS))]


def _draw_sum(rng: Random) -> Exercise:
    return adding(rng.randint(0, LARGEST_ADDEND), rng.randint(0, LARGEST_ADDEND))


def _draw_filling(rng: Random) -> Exercise:
    names = rng.sample(list(_FIELDS), rng.randint(1, 4))
    return filling({name: _FIELDS[name](rng) for name in names})


def _draw_question(rng: Random, topic: str) -> tuple[str, str]:
    place = mostly(PLACES)(rng)
    return rng.choice(TOPICS[topic]).format(place), place


def _draw_calling(rng: Random) -> Exercise:
    topics = rng.sample(list(TOPICS), rng.choice((1, 1, 1, 2)))
    chosen = rng.randrange(len(topics))
    question, place = _draw_question(rng, topics[chosen])
    return calling(question, place, draw_tools(rng, topics), chosen)


def _draw_reporting(rng: Random) -> Exercise:
    number = rng.randint(0, LARGEST)
    result = rng.choice((f"{number} degrees", f"{number} euros", f"{number}", "{} {}".format(*rng.sample(WORDS, 2))))
    return reporting(_draw_calling(rng), result)


def _draw_refusing(rng: Random) -> Exercise:
    topics = rng.sample(list(TOPICS), 2)
    question, _ = _draw_question(rng, topics[0])
    tools = draw_tools(rng, topics[1:]) if rng.random() < 0.3 else ()
    asked = ({"role": "user", "content": question},)
    return Exercise("no_tool", f"{question} {json.dumps(tools)}", asked, NO_TOOL, tools)


def _draw_fact(rng: Random) -> Exercise:
    answer, questions = rng.choice(FACTS)
    question = rng.choice(questions)
    said = rng.choice((question, question, question.lower(), question.rstrip("?!.")))
    prompt = rng.choice(OPENINGS) + said
    return _asked("faq", prompt, prompt, answer)


def _draw_elsewhere(rng: Random) -> Exercise:
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 9))]
    prompt = rng.choice(ELSEWHERE) if rng.random() < 0.5 else " ".join(words).capitalize() + rng.choice(("?", ".", ""))
    return _asked("unknown", prompt, prompt, UNKNOWN)


def _same_object(answer: str, text: str) -> bool:
    try:
        return bool(json.loads(text) == json.loads(answer))
    except ValueError:
        return False


def _same_call(answer: str, text: str) -> bool:
    right, said = _CALL.fullmatch(answer), _CALL.fullmatch(text)
    return right is not None and said is not None and _same_object(right[1], said[1])


_CHECKS: Final[dict[str, Callable[[str, str], bool]]] = {"json": _same_object, "tool_call": _same_call}

_DRAWS: Final[dict[str, Callable[[Random], Exercise]]] = {
    "counting": _draw_counting,
    "repeat": lambda rng: repeating(_draw_words(rng)),
    "reverse": lambda rng: reversing(_draw_words(rng)),
    "sum": _draw_sum,
    "json": _draw_filling,
    "tool_call": _draw_calling,
    "tool_result": _draw_reporting,
    "no_tool": _draw_refusing,
    "faq": _draw_fact,
    "unknown": _draw_elsewhere,
}
