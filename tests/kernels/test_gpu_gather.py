"""Rows and log probabilities taken on the GPU, against torch."""

from __future__ import annotations

import pytest
import torch

from kernels.gpu.gather import gather_rows, token_logprobs
from kernels.gpu.launcher import Launcher
from kernels.gpu.specification import UnsupportedShape

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

VOCABULARIES = [7, 2048, 5003]
"""Less than a program's block, one, and some."""


@pytest.mark.parametrize("size", [3, 576, 1030])
def test_rows_are_gathered_and_padding_is_zero(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, size: int
) -> None:
    source = torch.randn(20, size, device=device, dtype=dtype)
    indices = torch.tensor([19, 0, -1, 7, 7, -1], device=device)

    out = gather_rows(launcher, source, indices)

    expected = source[indices]
    expected[indices < 0] = 0
    assert torch.equal(out, expected)


def test_no_row_gathers_nothing(launcher: Launcher, device: torch.device) -> None:
    out = gather_rows(launcher, torch.randn(4, 64, device=device), torch.empty(0, dtype=torch.int64, device=device))

    assert out.shape == (0, 64)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_log_probability_and_rank_are_torchs(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, vocabulary: int
) -> None:
    logits = (torch.randn(6, vocabulary, device=device) * 5).to(dtype)
    tokens = torch.randint(vocabulary, (6,), device=device)
    tokens[0] = logits[0].argmax()

    logprobs, ranks = token_logprobs(launcher, logits, tokens)

    own = logits.gather(1, tokens[:, None])
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ranks, (logits > own).sum(-1) + 1)


def test_tokens_as_likely_share_their_rank(launcher: Launcher, device: torch.device) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0]], device=device).expand(5, 5)

    _, ranks = token_logprobs(launcher, logits, torch.arange(5, device=device))

    assert ranks.tolist() == [5, 1, 3, 1, 3]


def test_huge_logits_and_impossible_tokens_have_their_log_probability(
    launcher: Launcher, device: torch.device
) -> None:
    logits = torch.full((2, 4500), -torch.inf, device=device)
    logits[:, 4400] = 3e38
    logits[:, 3] = 3e38

    logprobs, ranks = token_logprobs(launcher, logits, torch.tensor([3, 5], device=device))

    assert logprobs.tolist() == pytest.approx([-0.6931472, -torch.inf])
    assert ranks.tolist() == [1, 3]


def test_a_line_with_something_that_is_not_a_number_says_so(launcher: Launcher, device: torch.device) -> None:
    logits = torch.randn(3, 3000, device=device)
    logits[1, 2999] = torch.nan

    logprobs, _ = token_logprobs(launcher, logits, torch.tensor([1, 1, 1], device=device))

    assert logprobs.isnan().tolist() == [False, True, False]


def test_lines_may_lie_past_two_to_the_31_elements(launcher: Launcher, device: torch.device) -> None:
    apart = 2**30 + 16
    torch.use_deterministic_algorithms(False)  # Memory must not be touched but where the lines are.
    lines = torch.empty_strided((3, 40), (apart, 1), dtype=torch.float16, device=device)
    lines.copy_(torch.randn(3, 40, device=device))

    logprobs, _ = token_logprobs(launcher, lines, torch.tensor([5, 6, 7], device=device))

    expected = lines.float().log_softmax(-1)[torch.arange(3), [5, 6, 7]]
    torch.testing.assert_close(logprobs, expected)
    assert torch.equal(gather_rows(launcher, lines, torch.tensor([2, 0], device=device)), lines[[2, 0]])


def test_lines_whose_elements_lie_apart_are_refused(launcher: Launcher, device: torch.device) -> None:
    with pytest.raises(UnsupportedShape):
        gather_rows(launcher, torch.randn(4, 64, device=device).T, torch.tensor([0], device=device))
