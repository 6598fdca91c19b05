"""Log probabilities in the two shapes OpenAI has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.request import TokenLogprob
from handler.openai.responses import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob

if TYPE_CHECKING:
    from engine.text import Tokenizer

LOWEST = -9999.0
"""What stands for minus infinity, which JSON does not have; vLLM writes the same."""


def chat_logprobs(tokens: Sequence[TokenLogprob], tokenizer: Tokenizer) -> ChatLogprobs:
    """A chat's: one object a token."""
    content = [
        ChatTokenLogprob(
            **_top(token.token_id, token.logprob, tokenizer),
            top_logprobs=[_top(token_id, logprob, tokenizer) for token_id, logprob in token.top],
        )
        for token in tokens
    ]
    return ChatLogprobs(content=content)


def completion_logprobs(
    tokens: Sequence[TokenLogprob | None], token_ids: Sequence[int], tokenizer: Tokenizer, offset: int
) -> CompletionLogprobs:
    """A completion's: parallel lists.

    Args:
        tokens: None for a token without one, which a prompt's first is.
        offset: characters of the choice before these tokens.
    """
    texts = [tokenizer.token_text(token_id) for token_id in token_ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[None if token is None else _finite(token.logprob) for token in tokens],
        top_logprobs=[None if token is None else _top_of(token, tokenizer) for token in tokens],
        text_offset=offsets,
    )


def _top_of(token: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float] | None:
    """The most likely tokens and the chosen one; two tokens of one text share an entry, the likelier's."""
    if not token.top:
        return None
    pairs = [*token.top, (token.token_id, token.logprob)]
    best: dict[str, float] = {}
    for token_id, logprob in pairs:
        best.setdefault(tokenizer.token_text(token_id), _finite(logprob))
    return best


def _top(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    return TopLogprob(
        token=tokenizer.token_text(token_id), logprob=_finite(logprob), bytes=list(tokenizer.token_bytes(token_id))
    )


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
