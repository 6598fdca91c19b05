"""How often the demo model is right, by kind of task: `python -m image.demo_eval FOLDER`.

Greedy decoding to the end of the turn with transformers, whole answers compared. Prints a Markdown table.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from image.demo_corpus import system_text
from image.demo_tasks import Exercise, Message, counting, counting_pairs, draw, kinds

_OFFERS: Final = MappingProxyType({"tool_call": (1, 2), "no_tool": (0, 1)})  # numbers of tools told apart in the table


@dataclass(frozen=True)
class Case:
    """An exercise and the system message ("" for none) in front of it."""

    exercise: Exercise
    system: str = ""

    @property
    def messages(self) -> list[Message]:
        """The conversation up to where the model speaks."""
        before: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, *self.exercise.messages]


@dataclass(frozen=True)
class Reply:
    """What the model said and how sure it was: the least lead, in logits, of a chosen token over the next best."""

    text: str
    ended: bool
    margin: float


@dataclass(frozen=True)
class Score:
    """Right answers out of `n`, and the margin which all but one in a hundred of the replies exceed, in logits."""

    n: int
    correct: int
    margin: float


class Student:
    """The demo model with its tokeniser, computing in `dtype`."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)

    def answer(self, cases: list[Case], batch_size: int = 128) -> list[Reply]:
        """Replies in the order of the cases; those of like length run together, as little is padded then."""
        prompts = [self._prompt(case) for case in cases]
        order = sorted(range(len(cases)), key=lambda index: len(prompts[index]))
        replies: dict[int, Reply] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            replies.update(zip(chosen, self._generate([prompts[index] for index in chosen]), strict=True))
        return [replies[index] for index in range(len(cases))]

    def _prompt(self, case: Case) -> list[int]:
        tools = list(case.exercise.tools) or None
        render: Any = self.tokenizer.apply_chat_template  # transformers' own types allow less than it takes
        text = render(case.messages, tools=tools, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def _generate(self, prompts: list[list[int]]) -> Iterator[Reply]:
        length = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = {"max_new_tokens": 96, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        made = self.model.generate(input_ids=ids, attention_mask=mask, **settings)
        leads = torch.stack([_lead(logits) for logits in made.logits], dim=1)
        for row, lead in zip(made.sequences[:, length:], leads, strict=True):
            yield self._reply(row, lead)

    def _reply(self, row: Tensor, lead: Tensor) -> Reply:
        """One row's new tokens, cut at the end of the turn."""
        tokens, end = row.tolist(), self.model.config.eos_token_id
        count = tokens.index(end) if end in tokens else len(tokens)
        text = self.tokenizer.decode(tokens[:count], skip_special_tokens=False)
        return Reply(str(text), count < len(tokens), float(lead[: count + 1].min()))


def exams(count: int, seed: int) -> dict[str, Callable[[], list[Case]]]:
    """The table's lines: a name and what makes its cases, `count` of them unless the name says all."""
    lines: dict[str, Callable[[], list[Case]]] = {
        "counting, every pair": lambda: [Case(counting(*pair)) for pair in counting_pairs()],
        "counting, held-out pairs": lambda: [case for case in _all_counting() if case.exercise.held_out],
        "counting, behind a system message": lambda: _behind_system(count, Random(seed)),
    }
    for kind in kinds()[1:]:
        for offered in _OFFERS.get(kind, (None,)):
            name = kind if offered is None else f"{kind}, {offered} on offer"
            lines[name] = partial(_held_out, kind, count, Random(seed), offered)
    return lines


def grade(student: Student, cases: list[Case]) -> tuple[Score, list[str]]:
    """The score, and a few wrong replies with their prompts."""
    replies = student.answer(cases)
    right = [reply.ended and case.exercise.check(reply.text) for case, reply in zip(cases, replies, strict=True)]
    wrong = [
        f"{case.exercise.prompt} -> {reply.text} (not {case.exercise.answer})"
        for case, reply, good in zip(cases, replies, right, strict=True)
        if not good
    ]
    margins = sorted(reply.margin for reply in replies)
    return Score(len(cases), sum(right), margins[len(margins) // 100]), wrong[:5]


def _all_counting() -> list[Case]:
    return [Case(counting(*pair)) for pair in counting_pairs()]


def _behind_system(count: int, rng: Random) -> list[Case]:
    pairs = rng.sample(list(counting_pairs()), count)
    return [Case(counting(*pair), system_text(rng, rng.choice((50, 150, 300))) or "Be brief.") for pair in pairs]


def _held_out(kind: str, count: int, rng: Random, tools: int | None = None) -> list[Case]:
    """`count` exercises held out of training; only those with so many tools on offer, where `tools` says how many."""
    drawn = (draw(kind, rng, held_out=True) for _ in repeat(None))
    wanted = (exercise for exercise in drawn if tools is None or len(exercise.tools) == tools)
    return [Case(exercise) for exercise in islice(wanted, count)]


def _lead(logits: Tensor) -> Tensor:
    """(rows, vocabulary) to (rows,): the likeliest token's lead over the next."""
    best = logits.float().topk(2).values
    return best[:, 0] - best[:, 1]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m image.demo_eval", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500, help="cases a kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show-wrong", action="store_true")
    given = parser.parse_args()
    disable_progress_bar()
    print("| task | compute | n | correct | % | margin |\n|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        student = Student(given.folder, dtype)
        for name, cases in exams(given.count, given.seed).items():
            score, wrong = grade(student, cases())
            share = f"{100 * score.correct / score.n:.2f}"
            kind = str(dtype).removeprefix("torch.")
            print(f"| {name} | {kind} | {score.n} | {score.correct} | {share} | {score.margin:.2f} |", flush=True)
            print("\n".join(wrong) if given.show_wrong and wrong else "", end="\n" if given.show_wrong else "")


if __name__ == "__main__":
    main()
