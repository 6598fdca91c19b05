"""Whether a folder's tokenizer and chat template do what serving will ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.chat import ChatTemplate
from engine.errors import InvalidModel, InvalidRequest
from engine.text import Tokenizer

_PLAIN = ("Hello, world!", "Count from 3 to 7.", "def add(a, b): return a + b")
_FURTHER = ("Zażółć gęślą jaźń", "你好世界", "a flame 🔥")


def check_text(folder: Path, vocab_size: int) -> Iterator[str]:
    """Encode and decode a few texts and render a chat; gives warnings, a line each.

    Raises:
        InvalidModel: the tokenizer or the template cannot be read, English text does not come back, a token is past the
            model's vocabulary, or the template refuses a plain question.
    """
    tokenizer = Tokenizer.from_folder(folder)
    template = ChatTemplate.from_folder(folder, tokenizer)
    for text in _PLAIN:
        if (back := _there_and_back(folder, tokenizer, text, vocab_size)) != text:
            raise InvalidModel(f"{folder / 'tokenizer.json'}: {text!r} comes back as {back!r}")
    for text in _FURTHER:
        if (back := _there_and_back(folder, tokenizer, text, vocab_size)) != text:
            yield f"the tokenizer loses characters: {text!r} comes back as {back!r}"
    if template is None:
        yield "there is no chat template: completions work, chats do not"
    else:
        _check_template(folder, template, tokenizer, vocab_size)


def _there_and_back(folder: Path, tokenizer: Tokenizer, text: str, vocab_size: int) -> str:
    """The text encoded and decoded, without the blank that some tokenizers put in front."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    _check_ids(folder, ids, vocab_size)
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def _check_template(folder: Path, template: ChatTemplate, tokenizer: Tokenizer, vocab_size: int) -> None:
    question = _PLAIN[1]
    try:
        rendered = template.render([{"role": "user", "content": question}])
    except InvalidRequest as error:
        raise InvalidModel(f"{folder}: a plain question: {error}") from None
    if question not in rendered:
        raise InvalidModel(f"{folder}: the chat template leaves the question out: {rendered[:200]!r}")
    _check_ids(folder, tokenizer.encode(rendered, add_special_tokens=False), vocab_size)


def _check_ids(folder: Path, ids: list[int], vocab_size: int) -> None:
    if not ids or max(ids) >= vocab_size:
        largest = max(ids, default=None)
        raise InvalidModel(f"{folder / 'tokenizer.json'}: token {largest} is none of the model's {vocab_size}")
