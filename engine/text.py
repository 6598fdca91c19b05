"""Text to tokens and back: the model folder's tokenizer, and output text that streams without ever being wrong.

A token is taken as the bytes it adds to the text. For byte-level BPE they are read from the token's letters; for every
other kind the tokenizer's own decoder is asked what the token adds behind another one. Output is these bytes in a row
through an incremental UTF-8 decoder, so a token costs the same however long the text has become.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from engine.errors import InvalidModel, InvalidRequest

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; empty when there is no such file.

    Raises:
        InvalidModel: the file is not a JSON object, naming it.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidModel(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{file}: not a JSON object")
    return content


def check_unicode(text: str, param: str) -> None:
    """Refuses lone surrogates, which JSON's `\\ud800` brings in and no UTF-8 can carry.

    Raises:
        InvalidRequest: naming `param`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{param} is not valid Unicode: it holds half a surrogate pair", param) from None


class Tokenizer:
    """The tokenizer of a model folder.

    What encoding adds around a text is what tokenizer.json says and nothing else: `add_bos_token` beside a
    tokenizer.json is ignored, as in transformers 5.

    Attributes:
        eos_token_ids: every token that ends a generation, by any of the folder's files.
        special_tokens: text of the named tokens by name (`bos_token`, `eos_token`, ...), as chat templates see them.
        vocab_size: one more than the highest token id.
    """

    def __init__(self, backend: Backend, special_tokens: dict[str, str], eos_token_ids: frozenset[int]) -> None:
        self._backend = backend
        self.special_tokens = special_tokens
        self.eos_token_ids = eos_token_ids
        added = backend.get_added_tokens_decoder()
        self._special_ids = {token_id for token_id, token in added.items() if token.special}
        self.vocab_size = max(backend.get_vocab_size(), *(token_id + 1 for token_id in added), 0)
        decoder_steps = _decoder_steps(backend)
        self._alphabet = _byte_alphabet() if "ByteLevel" in decoder_steps else None
        self._byte_fallback = "ByteFallback" in decoder_steps
        self._anchor = None if self._alphabet else _find_anchor(backend)
        self._pieces = _Pieces(self._compute_piece)
        self._visible_pieces = _Pieces(self._compute_visible_piece)

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """The tokenizer in a Hugging Face folder (tokenizer.json and the small configuration files beside it).

        Raises:
            InvalidModel: tokenizer.json is missing, or a file cannot be read.
        """
        # Only single texts are encoded here; worker threads would do nothing but complain of the SDK's fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        backend = _read_backend(folder / "tokenizer.json")
        special_tokens = _read_special_tokens(folder)
        _mark_special(backend, special_tokens.values())
        return cls(backend, special_tokens, _read_eos_token_ids(folder, backend, special_tokens.get("eos_token")))

    @classmethod
    def without_text(cls) -> Tokenizer:
        """For token ids alone: knows no text and no end of sequence."""
        return cls(Backend(BPE()), {}, frozenset())

    @property
    def bos_token(self) -> str | None:
        """Text of the token that begins a sequence."""
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """Text of the token that ends a sequence."""
        return self.special_tokens.get("eos_token")

    def encode(self, text: str, add_special_tokens: bool, param: str = "prompt") -> list[int]:
        """Token ids of `text`, never cut and never padded.

        A rendered chat is encoded with `add_special_tokens=False`: the template has written its own.

        Raises:
            InvalidRequest: lone surrogates in the text, naming `param`.
        """
        check_unicode(text, param)
        try:
            # A batch of one: unlike `encode`, it lets other threads run meanwhile.
            [encoded] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except Exception as error:  # the library raises nothing narrower
            raise InvalidRequest(f"the tokenizer cannot encode this text: {error}", param) from error
        ids: list[int] = encoded.ids
        return ids

    def surely_exceeds(self, text: str, tokens: int) -> bool:
        """Whether `text` is so long that no way to cut it gives `tokens` tokens or fewer; known without encoding it."""
        return len(text) > tokens and len(text) > tokens * self._longest_token

    @cached_property
    def _longest_token(self) -> int:
        """Characters that one token stands for at most."""
        return max(map(len, self._backend.get_vocab()), default=1)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Text of a whole sequence. Bytes that are not UTF-8 become U+FFFD; ids without a token add nothing.

        The tokenizers library makes one U+FFFD of every byte in a run of `<0x..>` tokens of which any is invalid; here
        the valid characters of the run keep their text, so that a character once streamed stays right.
        """
        pieces = self.pieces(skip_special_tokens)
        visible = [token_id for token_id in ids if pieces[token_id]]
        opening = b"".join(map(self.opening_piece, visible[:1]))
        return (opening + b"".join(map(pieces.__getitem__, visible[1:]))).decode(errors="replace")

    def token_text(self, token_id: int) -> str:
        """What the token adds to a text it continues; half a character shows as U+FFFD."""
        return self._pieces[token_id].decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token adds to a text it continues; empty for an id without a token."""
        return self._pieces[token_id]

    def pieces(self, skip_special_tokens: bool) -> dict[int, bytes]:
        """`token_bytes` as a mapping, filled on demand; special tokens are empty when skipped."""
        return self._visible_pieces if skip_special_tokens else self._pieces

    def opening_piece(self, token_id: int) -> bytes:
        """The bytes of a token that begins a sequence: SentencePiece's leading space is not part of the text there."""
        if self._alphabet is not None:
            return self._pieces[token_id]
        text = self._backend.decode([token_id], skip_special_tokens=False)
        return self._pieces[token_id] if "\ufffd" in text else text.encode()

    def _compute_piece(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._alphabet is not None:
            return _byte_level_piece(token, self._alphabet)
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        return bytes.fromhex(byte[1]) if byte else self._anchored_piece(token_id)

    def _compute_visible_piece(self, token_id: int) -> bytes:
        return b"" if token_id in self._special_ids else self._pieces[token_id]

    def _anchored_piece(self, token_id: int) -> bytes:
        if self._anchor is None:
            return self._backend.decode([token_id], skip_special_tokens=False).encode()
        anchor_id, anchor_text = self._anchor
        return self._backend.decode([anchor_id, token_id], skip_special_tokens=False)[len(anchor_text) :].encode()


class Detokenizer:
    """The text of one generated choice, released token by token.

    All that `push` and `flush` return, in a row, is the output's text as it continues the prompt, cut at the first
    stop string. The first is the one that is complete first; of several complete at the same character, the longest.
    Held back is what could still change, and no more: the bytes of an unfinished character, and the longest end of the
    text that begins a stop string.

    Attributes:
        stopped: the stop string that was hit. Nothing is released after it.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str] = (),
        skip_special_tokens: bool = True, include_stop_str_in_output: bool = False,
    ) -> None:
        self.stopped: str | None = None
        self._pieces = tokenizer.pieces(skip_special_tokens)
        self._opening_piece = tokenizer.opening_piece
        self._opening = not any(self._pieces[token_id] for token_id in reversed(prompt_ids))
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._searches = [_StopSearch(text) for text in stop]
        self._stop_beginnings = {text[0] for text in stop}
        self._include_stop = include_stop_str_in_output
        self._held = ""

    def push(self, token_id: int, allow_stop: bool = True) -> str:
        """The text this token releases.

        With `allow_stop` false no stop string may end in this token's text (vLLM's rule for `min_tokens`). One that
        begins there and ends in a later token counts.
        """
        if self.stopped is not None:
            return ""
        piece = self._pieces[token_id]
        if self._opening and piece:
            self._opening = False
            piece = self._opening_piece(token_id)
        text = self._decode(piece)
        return self._cut(text, allow_stop) if self._searches else text

    def flush(self) -> str:
        """What was held back, at the end of the output; an unfinished character is U+FFFD."""
        if self.stopped is not None:
            return ""
        text = self._decode(b"", True)
        released = self._cut(text, True) if self._searches else text
        held, self._held = self._held, ""
        return released + held

    def _cut(self, text: str, allow_stop: bool) -> str:
        if not self._held and self._stop_beginnings.isdisjoint(text):
            return text
        ends = [(search.feed(text, allow_stop), search.text) for search in self._searches]
        hits = [(end, -len(stop), stop) for end, stop in ends if end is not None]
        pending = self._held + text
        if hits:
            return self._stop_at(pending, min(hits))
        keep = len(pending) - max(search.matched for search in self._searches)
        self._held = pending[keep:]
        return pending[:keep]

    def _stop_at(self, pending: str, hit: tuple[int, int, str]) -> str:
        end, _, self.stopped = hit
        end += len(self._held)
        self._held = ""
        return pending[: end if self._include_stop else end - len(self.stopped)]


class _StopSearch:
    """Looks for one stop string in text that comes in parts (Knuth, Morris and Pratt): no character is read twice.

    Attributes:
        matched: length of the longest beginning of the stop string that the text so far ends with.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._borders = _borders(text)

    def feed(self, part: str, allow_stop: bool) -> int | None:
        """How many characters of `part` lie before the end of the first match; None without one."""
        stop, borders, matched = self.text, self._borders, self.matched
        for position, char in enumerate(part, 1):
            while matched and stop[matched] != char:
                matched = borders[matched]
            matched += stop[matched] == char
            if matched == len(stop):
                if allow_stop:
                    return position
                matched = borders[matched]
        self.matched = matched
        return None


class _Pieces(dict[int, bytes]):
    """Bytes by token id, worked out when first asked for: a whole vocabulary would hold up the boot."""

    def __init__(self, compute: Callable[[int], bytes]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, token_id: int) -> bytes:
        piece = self[token_id] = self._compute(token_id)
        return piece


def _borders(text: str) -> list[int]:
    """For each k, the length of the longest string that both begins and ends `text[:k]`, shorter than k."""
    borders = [0, 0]
    for char in text[1:]:
        border = borders[-1]
        while border and text[border] != char:
            border = borders[border]
        borders.append(border + (text[border] == char))
    return borders


def _byte_alphabet() -> dict[str, int]:
    """The letter that stands for each byte in byte-level BPE (GPT-2's `bytes_to_unicode`), reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _byte_level_piece(token: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes(alphabet[letter] for letter in token)
    except KeyError:  # an added token is plain text, not letters for bytes
        return token.encode()


def _decoder_steps(backend: Backend) -> set[str]:
    """Types of the steps of the tokenizer's decoder."""
    if backend.decoder is None:
        return set()
    decoder = json.loads(backend.decoder.__getstate__())
    return {step["type"] for step in decoder.get("decoders", [decoder])}


def _find_anchor(backend: Backend) -> tuple[int, str] | None:
    """A token, with its text, that shows what the next one adds: decoded behind it, it is not at the beginning."""
    for token_id in range(backend.get_vocab_size()):
        text = backend.decode([token_id])
        if text and "\ufffd" not in text and backend.decode([token_id, token_id]).startswith(text):
            return token_id, text
    return None


def _read_backend(file: Path) -> Backend:
    if not file.is_file():
        raise InvalidModel(f"{file}: missing")
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise InvalidModel(f"{file}: {' '.join(str(error).split())}") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _mark_special(backend: Backend, tokens: Iterable[str]) -> None:
    """Old folders name special tokens that tokenizer.json holds as plain vocabulary; transformers marks them too."""
    added = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    plain = {token for token in tokens if token not in added and backend.token_to_id(token) is not None}
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in sorted(plain)])


def _read_special_tokens(folder: Path) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = read_json_object(folder / name)
        extra = content.get("extra_special_tokens")
        tokens |= _named_tokens(content) | _named_tokens(extra if isinstance(extra, dict) else {})
    return tokens


def _named_tokens(content: dict[str, Any]) -> dict[str, str]:
    """The entries called `..._token` that hold a token, as text or as `{"content": text}`."""
    values = {name: value for name, value in content.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in values.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_eos_token_ids(folder: Path, backend: Backend, eos_token: str | None) -> frozenset[int]:
    found = [backend.token_to_id(eos_token)] if eos_token is not None else []
    for name in ("generation_config.json", "config.json"):
        value = read_json_object(folder / name).get("eos_token_id")
        found += value if isinstance(value, list) else [value]
    return frozenset(token_id for token_id in found if isinstance(token_id, int))
