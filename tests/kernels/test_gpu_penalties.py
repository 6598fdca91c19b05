"""Penalties on the GPU against the reference."""

from __future__ import annotations

import pytest
import torch

from kernels.gpu.launcher import Launcher
from kernels.gpu.penalties import penalise_texts
from kernels.penalties import Texts
from kernels.penalties import penalise_texts as reference_penalise_texts

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

VOCABULARY = 2600
"""More than one program's block, and not two."""


def texts_of(device: torch.device, tokens: torch.Tensor, *lines: tuple[int, int, int]) -> Texts:
    """Of (row, tokens of the prompt, tokens of prompt and output)."""
    rows, prompts, lengths = (torch.tensor(column, device=device) for column in zip(*lines, strict=True))
    return Texts(tokens.to(device), rows, prompts, lengths, max(length for _, _, length in lines))


def strengths(lines: int, device: torch.device) -> list[torch.Tensor]:
    return [torch.rand(lines, device=device) + 0.5 for _ in range(3)]


@pytest.mark.parametrize("vocabulary", [7, 2048, VOCABULARY])
def test_penalties_are_the_references(launcher: Launcher, device: torch.device, vocabulary: int) -> None:
    tokens = torch.randint(vocabulary, (5, 1200))
    texts = texts_of(device, tokens, (4, 700, 1100), (0, 1, 1), (2, 1023, 1025), (4, 3, 4))
    logits = torch.randn(4, vocabulary, device=device)
    given, three = logits.clone(), strengths(4, device)

    out = penalise_texts(launcher, logits, texts, *three)

    torch.testing.assert_close(out, reference_penalise_texts(logits, texts, *three), rtol=1e-6, atol=2e-6)
    assert torch.equal(logits, given), "the model's own are reported after"


def test_a_token_counts_as_often_as_it_was_said_and_once_for_the_prompt(
    launcher: Launcher, device: torch.device
) -> None:
    texts = texts_of(device, torch.tensor([[3, 3, 4, 4, 4, 5, 6, 6]]), (0, 3, 6))
    one, half, two = (torch.full((1,), value, device=device) for value in (1.0, 0.5, 2.0))

    out = penalise_texts(launcher, torch.ones(1, 8, device=device), texts, one, half, two)

    said = [1 / 2 - 2 * 0.5 - 1, 1 / 2 - 0.5 - 1]
    assert out[0].tolist() == [1, 1, 1, 0.5, *said, 1, 1], "what lies past the text's end is nobody's"


def test_lines_that_ask_for_nothing_keep_their_logits(launcher: Launcher, device: torch.device) -> None:
    texts = texts_of(device, torch.zeros(1, 9, dtype=torch.int64), (0, 4, 9))
    logits = torch.randn(1, VOCABULARY, device=device)
    nothing, neutral = torch.zeros(1, device=device), torch.ones(1, device=device)

    assert torch.equal(penalise_texts(launcher, logits, texts, nothing, nothing, neutral), logits)


def test_rows_may_lie_past_two_to_the_31_elements(launcher: Launcher, device: torch.device) -> None:
    torch.use_deterministic_algorithms(False)  # Memory must not be touched but where the row's tokens are.
    tokens = torch.empty((130, 2**24 + 2), dtype=torch.int64, device=device)
    tokens[129, :3] = torch.tensor([5, 6, 6])
    texts = texts_of(device, tokens, (129, 1, 3))
    logits, one = torch.zeros(1, 9, device=device), torch.ones(1, device=device)

    out = penalise_texts(launcher, logits, texts, 0 * one, one, one)

    assert out[0].tolist() == [0, 0, 0, 0, 0, 0, -2, 0, 0]
