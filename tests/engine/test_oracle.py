"""The demo model knows how to count, so a page that two requests wrote, or lost, shows as a wrong number."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from engine.boot import boot
from engine.config import EngineConfig
from engine.engine import Engine
from engine.llm import LLM
from engine.request import Event, FinishReason, SamplingParams
from engine.submission import Submission
from image.demo_tasks import counting

REQUESTS = 200
GREEDY = SamplingParams(temperature=0, max_tokens=80)
SYSTEM_MESSAGES = (
    "You are a careful assistant.",
    "Answer with the numbers alone, in order, and stop at the last one that was asked for.",
    "The harbour lay still in the morning. Boats came and went, and nobody counted them. " * 2,
)


@dataclass(frozen=True)
class Question:
    """A counting task behind one of the shared prefixes."""

    system: str
    first: int
    last: int

    @property
    def answer(self) -> str:
        return counting(self.first, self.last).answer

    @property
    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": counting(self.first, self.last).prompt},
        ]


def draw_questions(count: int) -> list[Question]:
    draw = random.Random(7)
    starts = [draw.randint(0, 88) for _ in range(count)]
    return [Question(draw.choice(SYSTEM_MESSAGES), first, first + draw.randint(3, 11)) for first in starts]


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Fifty distinct ones, each asked four times."""
    return draw_questions(REQUESTS // 4) * 4


@pytest.fixture(scope="module")
def alone(questions: list[Question]) -> dict[Question, str]:
    """Each question's answer when nothing else runs, nothing is cached."""
    llm = LLM("demo", device="cpu", dtype="float32", max_running=1, prefix_caching=False)
    distinct = list(dict.fromkeys(questions))
    answers = llm.chat([question.messages for question in distinct], GREEDY)
    return {question: answer.outputs[0].text for question, answer in zip(distinct, answers, strict=True)}


def small_engine(pages: int, overlap: bool) -> Engine:
    """An engine whose pool holds only a few of the requests at once."""
    page_bytes = LLM("demo", device="cpu", dtype="float32", page_size=4).booted.plan.page_bytes
    return boot(
        EngineConfig(
            "demo", device="cpu", dtype="float32", page_size=4, kv_memory=pages * page_bytes, token_budget=256,
            max_running=64, overlap=overlap,
        )
    )


def submit(engine: Engine, question: Question) -> Submission:
    template, tokenizer = engine.model.chat_template, engine.model.tokenizer
    assert template is not None
    prompt = tokenizer.encode(template.render(question.messages), add_special_tokens=False)
    return engine.submit(prompt, GREEDY)


async def read(engine: Engine, submission: Submission, abort_after: int | None) -> tuple[str, list[Event]]:
    text, ends, tokens = "", [], 0
    async for event in engine.stream(submission):
        text += event.text
        tokens += len(event.token_ids)
        if event.finish:
            ends.append(event)
        if abort_after is not None and tokens >= abort_after:
            engine.abort(submission.id)
            engine.abort(submission.id)
    return text, ends


async def ask_all(engine: Engine, questions: list[Question]) -> list[tuple[str, list[Event]]]:
    """What becomes of each, all of them waiting when the engine starts."""
    draw = random.Random(11)
    aborts = [draw.randint(0, 6) if draw.random() < 0.2 else None for _ in questions]
    submissions = [submit(engine, question) for question in questions]
    engine.start()
    return await asyncio.gather(*(read(engine, *pair) for pair in zip(submissions, aborts, strict=True)))


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
def test_two_hundred_at_once_in_a_small_pool_each_answer_as_if_alone(
    questions: list[Question], alone: dict[Question, str], overlap: bool
) -> None:
    engine = small_engine(90, overlap)
    try:
        results = asyncio.run(ask_all(engine, questions))
        statistics = engine.statistics()
    finally:
        engine.stop()
    assert statistics.preemptions > 0
    assert statistics.prefix_hits > 0
    assert (statistics.pages_used, statistics.running, statistics.waiting) == (0, 0, 0)
    assert all(len(ends) == 1 for _, ends in results)
    finished = [
        (question, text) for question, (text, [end]) in zip(questions, results, strict=True)
        if end.finish and end.finish.reason is FinishReason.STOP
    ]
    assert len(finished) >= REQUESTS // 2
    assert [text for _, text in finished] == [alone[question] for question, _ in finished]
    right = sum(text == question.answer for question, text in finished)
    assert right >= 0.99 * len(finished)
