"""What tokenising and streamed detokenising promise, for byte-level and SentencePiece-like vocabularies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from engine.errors import InvalidModel, InvalidRequest
from engine.text import Detokenizer, Tokenizer

CORPUS = ["Hello world, hello there! The end.", "naïve café 日本語 text", "😀 emoji 👩‍👩‍👧 family 😀"] * 4
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def byte_level_backend() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<tool call>", special=False), AddedToken("日", special=False)])
    return backend


def sentencepiece_backend() -> Backend:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "▁▁", *"abcdehlor.\n", "日", "▁a", "▁b", "he", "▁he", "lo", "▁日", "\ufffd"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "▁"), ("▁", "a"), ("▁", "b"), ("h", "e"), ("▁", "he"), ("l", "o"), ("▁", "日")]
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return backend


def unigram_backend() -> Backend:
    tokens = ["<unk>", "<s>", "</s>", "▁", "▁hello", "▁wor", "ld", *"helowrd", "日"]
    backend = Backend(models.Unigram([(token, -float(index)) for index, token in enumerate(tokens)], 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return backend


def words_backend() -> Backend:
    """A vocabulary without a decoder: the library writes a space between tokens."""
    tokens = ["<unk>", "<s>", "</s>", "hello", "world"]
    backend = Backend(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return backend


BACKENDS = {
    "byte level": byte_level_backend(), "sentencepiece": sentencepiece_backend(),
    "unigram": unigram_backend(), "words": words_backend(),
}
TOKENIZERS = {name: Tokenizer(backend, SPECIAL_TOKENS, frozenset({2})) for name, backend in BACKENDS.items()}
BYTE_LEVEL, SENTENCEPIECE = TOKENIZERS["byte level"], TOKENIZERS["sentencepiece"]

thorough = settings(deadline=None, max_examples=300)
kinds = st.sampled_from(sorted(TOKENIZERS))
id_lists = st.lists(st.integers(0, 400), max_size=24)
stop_lists = st.lists(st.text("ehlo a日😀\ufffd", min_size=1, max_size=4), max_size=3)


def ids_of(backend: Backend, *tokens: str) -> list[int]:
    vocabulary = backend.get_vocab()
    return [vocabulary[token] for token in tokens]


def run(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()


def cut(text: str, stops: Sequence[str], include: bool) -> tuple[str, str | None]:
    """The definition, read off character by character: the stop that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            stop = max(hits, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def undecided(text: str, stops: Sequence[str]) -> int:
    return max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)


# What a sequence says


@thorough
@given(ids=id_lists, skip=st.booleans())
def test_byte_level_text_is_the_librarys(ids: list[int], skip: bool) -> None:
    assert BYTE_LEVEL.decode(ids, skip) == BACKENDS["byte level"].decode(ids, skip_special_tokens=skip)


@thorough
@given(kind=kinds, ids=id_lists, skip=st.booleans())
def test_text_is_the_librarys_wherever_bytes_are_valid(kind: str, ids: list[int], skip: bool) -> None:
    theirs = BACKENDS[kind].decode(ids, skip_special_tokens=skip)
    if "\ufffd" not in theirs:
        assert TOKENIZERS[kind].decode(ids, skip) == theirs


@thorough
@given(kind=st.sampled_from(["byte level", "sentencepiece"]), text=st.text(max_size=40))
def test_encoding_and_decoding_gives_the_text_back(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    if kind == "byte level" or not (set(text) & set("▁<\ufffd") or text.startswith(" ")):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), False) == text


def test_a_valid_byte_token_keeps_its_text_beside_an_invalid_one() -> None:
    ids = ids_of(BACKENDS["sentencepiece"], "<0xE6>", "<0x97>", "<0xA5>", "<0xFF>", "a")
    assert SENTENCEPIECE.decode(ids, True) == "日\ufffda"


def test_tokens_know_their_bytes() -> None:
    (space,) = ids_of(BACKENDS["byte level"], "Ġ")
    assert (BYTE_LEVEL.token_text(space), BYTE_LEVEL.token_bytes(space)) == (" ", b" ")
    half = BYTE_LEVEL.encode("🦜", False)[0]
    assert BYTE_LEVEL.token_bytes(half)[:1] == b"\xf0"
    assert BYTE_LEVEL.token_text(half).startswith("\ufffd")
    newline, he = ids_of(BACKENDS["sentencepiece"], "<0x0A>", "▁he")
    assert (SENTENCEPIECE.token_bytes(newline), SENTENCEPIECE.token_bytes(he)) == (b"\n", b" he")
    assert BYTE_LEVEL.token_text(0) == "<s>"


def test_an_id_without_a_token_says_nothing() -> None:
    assert BYTE_LEVEL.token_bytes(10**6) == b""
    assert BYTE_LEVEL.decode([10**6], True) == ""


def test_vocab_size_is_past_the_highest_id() -> None:
    assert max(BACKENDS["byte level"].get_vocab().values()) == BYTE_LEVEL.vocab_size - 1
    assert BYTE_LEVEL.token_bytes(BYTE_LEVEL.vocab_size - 1) == "日".encode()


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_surrogate_pair_is_the_requests_fault(text: str) -> None:
    with pytest.raises(InvalidRequest, match="messages is not valid Unicode") as caught:
        BYTE_LEVEL.encode(text, False, "messages")
    assert caught.value.param == "messages"


# Streaming


@thorough
@given(kind=kinds, prompt=id_lists, ids=id_lists, stops=stop_lists, skip=st.booleans(), include=st.booleans())
def test_streamed_text_is_the_whole_text_cut_at_the_first_stop(
    kind: str, prompt: list[int], ids: list[int], stops: list[str], skip: bool, include: bool,
) -> None:
    tokenizer = TOKENIZERS[kind]
    whole = Detokenizer(tokenizer, prompt, (), skip)
    detokenizer = Detokenizer(tokenizer, prompt, stops, skip, include)
    streamed = run(detokenizer, ids)
    assert (streamed, detokenizer.stopped) == cut(run(whole, ids), stops, include)


@thorough
@given(kind=kinds, ids=id_lists, skip=st.booleans())
def test_without_a_prompt_the_stream_is_the_decoded_sequence(kind: str, ids: list[int], skip: bool) -> None:
    assert run(Detokenizer(TOKENIZERS[kind], [], (), skip), ids) == TOKENIZERS[kind].decode(ids, skip)


@thorough
@given(kind=kinds, prompt=id_lists, ids=id_lists, skip=st.booleans())
def test_prompt_and_output_make_up_the_whole_text(kind: str, prompt: list[int], ids: list[int], skip: bool) -> None:
    before, whole = (BACKENDS[kind].decode(part, skip_special_tokens=skip) for part in (prompt, prompt + ids))
    if "\ufffd" not in before + whole:
        assert before + run(Detokenizer(TOKENIZERS[kind], prompt, (), skip), ids) == whole


@thorough
@given(kind=kinds, ids=id_lists, stops=stop_lists)
def test_no_more_is_held_back_than_could_still_change(kind: str, ids: list[int], stops: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    detokenizer, plain = Detokenizer(tokenizer, [], stops), Detokenizer(tokenizer, [])
    released = certain = ""
    for token_id in ids:
        released += detokenizer.push(token_id)
        certain += plain.push(token_id)
        if detokenizer.stopped is not None:
            break
        assert released == certain[: len(certain) - undecided(certain, stops)]


@thorough
@given(ids=id_lists)
def test_of_bytes_only_an_unfinished_character_is_held_back(ids: list[int]) -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, [], (), skip_special_tokens=False)
    released = "".join(map(detokenizer.push, ids))
    whole = BYTE_LEVEL.decode(ids, False)
    held = detokenizer.flush()
    assert released + held == whole
    # Of the three bytes of half a surrogate pair, which are no character, Python's decoder holds two back.
    assert held in ("", "\ufffd", "\ufffd" * 2)


def test_an_emoji_is_released_with_its_last_byte() -> None:
    ids = ids_of(BACKENDS["sentencepiece"], "<0xF0>", "<0x9F>", "<0x98>", "<0x80>")
    detokenizer = Detokenizer(SENTENCEPIECE, [])
    assert list(map(detokenizer.push, ids)) == ["", "", "", "😀"]


def test_half_an_emoji_at_the_end_is_one_replacement_character() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, [])
    assert "".join(map(detokenizer.push, BYTE_LEVEL.encode("🦜", False)[:-1])) == ""
    assert (detokenizer.flush(), detokenizer.flush()) == ("\ufffd", "")


@pytest.mark.parametrize(("prompt", "text"), [((), "a"), (("<s>",), "a"), (("b",), " a"), (("b", "<s>"), " a")])
def test_a_leading_space_belongs_to_the_output_only_behind_a_prompt(prompt: tuple[str, ...], text: str) -> None:
    backend = BACKENDS["sentencepiece"]
    assert run(Detokenizer(SENTENCEPIECE, ids_of(backend, *prompt)), ids_of(backend, "▁a")) == text


def test_a_stop_string_may_span_tokens() -> None:
    detokenizer = Detokenizer(SENTENCEPIECE, [], ["lol", "zz"])
    ids = ids_of(BACKENDS["sentencepiece"], "he", "lo", "l", "a")
    assert list(map(detokenizer.push, ids)) == ["he", "", "", ""]
    assert (detokenizer.stopped, detokenizer.flush()) == ("lol", "")


def test_of_two_stop_strings_the_one_complete_first_counts() -> None:
    ids = ids_of(BACKENDS["sentencepiece"], "a", "b", "c")
    detokenizer = Detokenizer(SENTENCEPIECE, [], ["abc", "b"])
    assert (run(detokenizer, ids), detokenizer.stopped) == ("a", "b")


def test_a_stop_string_can_be_kept() -> None:
    detokenizer = Detokenizer(SENTENCEPIECE, [], ["el"], include_stop_str_in_output=True)
    assert run(detokenizer, ids_of(BACKENDS["sentencepiece"], "he", "lo")) == "hel"


def test_no_stop_ends_in_text_that_must_not_stop() -> None:
    he, lo = ids_of(BACKENDS["sentencepiece"], "he", "lo")
    detokenizer = Detokenizer(SENTENCEPIECE, [], ["he", "eh"])
    text = detokenizer.push(he, allow_stop=False)
    assert (text, detokenizer.stopped) == ("h", None), "the e may begin a stop that ends later"
    assert detokenizer.push(lo) == "elo"
    assert (detokenizer.push(he), detokenizer.stopped) == ("", "he")


def test_a_stop_may_begin_in_text_that_must_not_stop() -> None:
    he, lo = ids_of(BACKENDS["sentencepiece"], "he", "lo")
    detokenizer = Detokenizer(SENTENCEPIECE, [], ["el"])
    assert detokenizer.push(he, allow_stop=False) + detokenizer.push(lo) == "h"
    assert detokenizer.stopped == "el"


# A model's folder


def write_folder(folder: Path, backend: Backend, **files: object) -> Path:
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_every_file_may_name_an_end_of_sequence(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path, sentencepiece_backend(), config={"eos_token_id": 7}, generation_config={"eos_token_id": [8, 9]},
        tokenizer_config={"eos_token": {"content": "</s>"}},
    )
    assert Tokenizer.from_folder(folder).eos_token_ids == {2, 7, 8, 9}


def test_special_tokens_are_found_in_every_shape(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path, sentencepiece_backend(), special_tokens_map={"bos_token": "no", "unk_token": {"content": "<unk>"}},
        tokenizer_config={"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "add_bos_token": 1},
    )
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_a_named_token_of_the_plain_vocabulary_is_special(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, sentencepiece_backend(), tokenizer_config={"eos_token": "lo"})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("he lo", False), True) == "he "


def test_nothing_is_cut_or_padded(tmp_path: Path) -> None:
    backend = byte_level_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.from_folder(write_folder(tmp_path, backend))
    assert tokenizer.decode(tokenizer.encode("Hello world, hello there!", True), False) == "Hello world, hello there!"


@pytest.mark.parametrize("add_bos_token", [True, False])
@pytest.mark.parametrize("post_processor", [processors.TemplateProcessing("<s> $A", None, [("<s>", 1)]), None])
def test_a_bos_is_added_exactly_where_transformers_adds_it(
    tmp_path: Path, add_bos_token: bool, post_processor: processors.PostProcessor | None,
) -> None:
    transformers = pytest.importorskip("transformers")
    backend = sentencepiece_backend()
    if post_processor is not None:
        backend.post_processor = post_processor
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": add_bos_token, **SPECIAL_TOKENS}
    folder = write_folder(tmp_path, backend, tokenizer_config=config)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert Tokenizer.from_folder(folder).encode("he lo", True) == theirs("he lo").input_ids


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, content: str) -> None:
    write_folder(tmp_path, sentencepiece_backend())
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidModel, match=rf".*{name}: .+") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer\.json: missing"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("module", ["engine.text", "engine.chat", "engine.tools"])
def test_importing_stays_light(module: str) -> None:
    heavy = ("torch", "transformers", "numpy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
