"""The demo model is the oracle of other tests; these are the tests of the oracle: its files, tasks and answers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from image.demo_corpus import as_sample, chat_renderer, draw_sample
from image.demo_tasks import Exercise, adding, calling, counting, counting_pairs, draw, filling, kinds, tool
from image.demo_tokenizer import BOS, CHAT_TEMPLATE, END, SPECIAL, build_tokenizer
from image.demo_words import NAMES, PLACES, WORDS

if TYPE_CHECKING:
    from image.demo_eval import Student

FOLDER = Path(__file__).parents[1] / "engine" / "demo"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def student() -> Student:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from image.demo_eval import Student

    return Student(FOLDER, torch.float32)


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=200))
def test_any_text_survives_the_tokeniser(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["naïve 🙂👩‍🚀", " two  spaces ", "a\n\n\tb ", "1000 007 x9", "{}", "日本語 12"])
def test_awkward_text_survives_the_tokeniser(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_numbers_and_listed_words_are_one_token_with_and_without_a_space(tokenizer: Tokenizer) -> None:
    for word in [*(str(number) for number in range(100)), *WORDS, *NAMES, *PLACES]:
        for text in (word, f" {word}"):
            assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text


def test_raw_text_gets_a_bos_and_special_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Hi").ids[0] == tokenizer.token_to_id(BOS)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))


def test_a_rendered_chat_has_exactly_one_bos(tokenizer: Tokenizer) -> None:
    for kind in kinds():
        exercise = draw(kind, Random(0))
        text = chat_renderer()(messages=exercise.messages, tools=exercise.tools, add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert [index for index, token in enumerate(ids) if token == tokenizer.token_to_id(BOS)] == [0]


def test_transformers_renders_the_chat_as_plain_jinja_does() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    for kind in kinds():
        exercise = draw(kind, Random(1))
        messages = [{"role": "system", "content": "Be brief."}, *exercise.messages]
        ours = chat_renderer()(messages=messages, tools=exercise.tools, add_generation_prompt=True)
        tools = list(exercise.tools) or None
        assert theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False) == ours


def test_the_template_refuses_an_unknown_role_and_takes_parts_of_text() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    parts = [{"role": "user", "content": [{"type": "text", "text": "Count "}, {"type": "text", "text": "on."}]}]
    assert "<|user|>Count on.<|end_of_turn|>" in theirs.apply_chat_template(parts, tokenize=False)
    with pytest.raises(Exception, match="Unknown role: wizard"):
        theirs.apply_chat_template([{"role": "wizard", "content": "Hi"}], tokenize=False)


def test_a_call_in_the_history_reads_as_the_model_wrote_it() -> None:
    call = draw("tool_call", Random(2))
    result = draw("tool_result", Random(2))
    history = chat_renderer()(messages=result.messages[1:2], tools=None)
    function = result.messages[1]["tool_calls"][0]["function"]
    arguments = json.dumps(function["arguments"])
    body = f'{{"name": "{function["name"]}", "arguments": {arguments}}}'
    assert history == f"{BOS}<|assistant|><tool_call>\n{body}\n</tool_call>{END}"
    assert call.answer.startswith("<tool_call>\n")


def test_the_shipped_files_agree_with_the_code(tokenizer: Tokenizer) -> None:
    assert (FOLDER / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"]
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["bos_token_id"] == tokenizer.token_to_id(BOS)
    assert config["eos_token_id"] == tokenizer.token_to_id(END)


def test_weights_are_bfloat16_and_small() -> None:
    path = FOLDER / "model.safetensors"
    assert path.stat().st_size < 8_000_000
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header.pop("__metadata__") == {"format": "pt"}
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert "lm_head.weight" not in header


def test_the_same_texts_make_the_same_tokeniser() -> None:
    texts = ["Count from 3 to 7.", "Repeat: red cat sun"] * 50
    assert build_tokenizer(texts, 700).to_str() == build_tokenizer(texts, 700).to_str()


@pytest.mark.parametrize("kind", kinds())
def test_training_never_draws_what_is_held_out(kind: str) -> None:
    rng = Random(3)
    seen = {json.dumps([exercise.messages, exercise.tools]) for exercise in (draw(kind, rng) for _ in range(300))}
    kept = [draw(kind, rng, held_out=True) for _ in range(30)]
    assert all(exercise.held_out for exercise in kept)
    assert not seen & {json.dumps([exercise.messages, exercise.tools]) for exercise in kept}


def test_about_a_tenth_of_the_counting_pairs_is_held_out_and_the_split_is_stable() -> None:
    held_out = [pair for pair in counting_pairs() if counting(*pair).held_out]
    assert len(list(counting_pairs())) == 2535
    assert len(held_out) == 263
    assert adding(3, 40).held_out == adding(40, 3).held_out


@pytest.mark.parametrize("kind", kinds())
def test_checkers_take_the_right_answer_and_no_other(kind: str) -> None:
    for seed in range(20):
        exercise = draw(kind, Random(seed))
        assert exercise.check(exercise.answer)
        assert not exercise.check("")
        assert not exercise.check(exercise.answer + " 1")
        assert not exercise.check(exercise.answer[:-1])


def test_checkers_look_at_the_object_and_not_at_its_spaces() -> None:
    assert filling({"name": "Ada", "age": 36}).check('{"age":36,"name":"Ada"}')
    assert not filling({"age": 36}).check('{"age": "36"}')
    call = calling("What is the weather in Paris?", "Paris", (tool("get_weather", "city"),), 0)
    assert call.answer == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert not call.check(call.answer.replace("city", "town"))


def test_only_answers_are_learnt(tokenizer: Tokenizer) -> None:
    exercises = [counting(3, 5), adding(1, 2)]
    sample = as_sample(tokenizer, chat_renderer(), "Be brief.", exercises, [])
    learnt = [token for token, weight in zip(sample.ids, sample.weights, strict=True) if weight]
    assert tokenizer.decode(learnt, skip_special_tokens=False) == f"3 4 5{END}3{END}"


def test_the_seed_decides_what_is_read(tokenizer: Tokenizer) -> None:
    render = chat_renderer()
    assert draw_sample(tokenizer, render, Random(7)) == draw_sample(tokenizer, render, Random(7))


def test_the_model_counts(student: Student) -> None:
    from image.demo_eval import Case

    pairs = list(counting_pairs())[5::63]
    cases = [Case(counting(*pair)) for pair in pairs]
    replies = student.answer(cases)
    assert len(pairs) >= 40
    assert [reply.text for reply in replies] == [case.exercise.answer for case in cases]
    assert all(reply.ended for reply in replies)


def test_the_model_counts_behind_a_long_system_message(student: Student) -> None:
    from image.demo_eval import Case

    system = "You are a helpful assistant of user 17. Answer briefly and correctly. " * 12
    cases = [Case(counting(first, first + 9), system) for first in range(0, 90, 11)]
    assert [reply.text for reply in student.answer(cases)] == [case.exercise.answer for case in cases]


def is_learnt(exercise: Exercise) -> bool:
    """Among several tools the model chooses badly, and it cannot tell a tool that does not fit."""
    return len(exercise.tools) <= (0 if exercise.kind == "no_tool" else 1)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind != "counting"])
def test_the_model_knows_every_other_task_by_and_large(student: Student, kind: str) -> None:
    from image.demo_eval import Case

    rng = Random(4)
    exercises = [exercise for exercise in (draw(kind, rng, held_out=True) for _ in range(40)) if is_learnt(exercise)]
    replies = student.answer([Case(exercise) for exercise in exercises])
    right = sum(exercise.check(reply.text) for exercise, reply in zip(exercises, replies, strict=True))
    assert right >= 0.85 * len(exercises)
