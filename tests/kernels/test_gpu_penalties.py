"""Penalties, biases and bans on the GPU against the sampler's way of doing them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

from kernels.gpu.compiler import compile_variant
from kernels.gpu.launcher import Launcher
from kernels.gpu.penalties import ALWAYS, AdjustmentTable, adjust, record_tokens, token_counts, variants
from kernels.gpu.specification import ModelShape, Variant
from kernels.sampling import penalise

VOCABULARY = 2600
"""More than one program's block, and not two."""

ROWS = 5


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """New tensors are full of NaN, so that what a kernel leaves out is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def table(device: torch.device) -> AdjustmentTable:
    return AdjustmentTable.neutral(ROWS, VOCABULARY, counted_rows=3, capacity=300, device=device)


@pytest.fixture
def positions(device: torch.device) -> torch.Tensor:
    return torch.full((ROWS,), 10, device=device)


def test_penalties_are_the_references(
    launcher: Launcher, device: torch.device, table: AdjustmentTable, positions: torch.Tensor
) -> None:
    prompts = torch.randint(VOCABULARY, (3, 2000)).tolist()
    outputs = torch.randint(VOCABULARY, (3, 2000)).tolist()
    counted = torch.tensor([4, 0, 2], device=device)
    table.count_rows[counted] = torch.tensor([1, 2, 0], dtype=torch.int32, device=device)
    for line, count_row in enumerate((1, 2, 0)):
        table.counts[count_row] = token_counts(prompts[line], outputs[line], VOCABULARY).to(device)
    for values in (table.presences, table.frequencies, table.repetitions):
        values.copy_(torch.rand(ROWS) + 0.5)
    logits = torch.randn(3, VOCABULARY, device=device)

    adjusted = adjust(launcher, logits, counted, positions, table)

    def times(texts: list[list[int]]) -> torch.Tensor:
        return torch.stack([torch.bincount(torch.tensor(text), minlength=VOCABULARY) for text in texts]).to(device)

    expected = penalise(
        logits, times(prompts), times(outputs),
        table.presences[counted], table.frequencies[counted], table.repetitions[counted],
    )
    torch.testing.assert_close(adjusted, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_rows_that_ask_for_nothing_keep_their_logits(
    launcher: Launcher, device: torch.device, table: AdjustmentTable, positions: torch.Tensor, dtype: torch.dtype
) -> None:
    table.counts.fill_(9)
    table.repetitions.fill_(2)
    logits = torch.randn(ROWS, VOCABULARY, device=device).to(dtype)

    adjusted = adjust(launcher, logits, torch.arange(ROWS, device=device), positions, table)

    assert adjusted.dtype == torch.float32
    assert torch.equal(adjusted, logits.float())


def test_a_bias_is_added_whenever_and_a_ban_holds_until_its_end(
    launcher: Launcher, device: torch.device, table: AdjustmentTable, positions: torch.Tensor
) -> None:
    table.edit_counts[1] = 3
    table.edit_ids[1, :4] = torch.tensor([2599, 7, 8, 9], dtype=torch.int32, device=device)
    table.edit_values[1, :4] = torch.tensor([1.5, -torch.inf, -torch.inf, 5.0], device=device)
    table.edit_ends[1, :4] = torch.tensor([ALWAYS, 10, 11, ALWAYS], device=device)
    logits = torch.randn(2, VOCABULARY, device=device)

    adjusted = adjust(launcher, logits, torch.tensor([0, 1], device=device), positions, table)

    expected = logits.clone()
    expected[1, 2599] += 1.5
    expected[1, 8] = -torch.inf
    assert torch.equal(adjusted, expected), "the ban of 7 is over, the one of 8 ends next, the edit of 9 is none"


def test_many_edits_and_two_of_one_token(
    launcher: Launcher, device: torch.device, table: AdjustmentTable, positions: torch.Tensor
) -> None:
    ids = torch.randperm(VOCABULARY, device=device)[:299].to(torch.int32)
    table.edit_counts[3] = 300
    table.edit_ids[3] = torch.cat((ids, ids[:1]))
    table.edit_values[3] = torch.randn(300, device=device)
    table.edit_values[3, 299] = -torch.inf
    table.edit_ends.fill_(ALWAYS)
    logits = torch.randn(1, VOCABULARY, device=device)

    adjusted = adjust(launcher, logits, torch.tensor([3], device=device), positions, table)

    expected = logits.clone()
    expected[0, ids.long()] += table.edit_values[3, :299]
    expected[0, ids[0]] = -torch.inf
    torch.testing.assert_close(adjusted, expected)


def test_new_tokens_are_counted_where_their_row_counts(
    launcher: Launcher, device: torch.device, table: AdjustmentTable
) -> None:
    prompts, outputs = [[5, 5, 6], [1]], [[6, 7], []]
    table.count_rows[4], table.count_rows[2] = 0, 2
    table.counts[0] = token_counts(prompts[0], outputs[0], VOCABULARY).to(device)
    table.counts[2] = token_counts(prompts[1], outputs[1], VOCABULARY).to(device)

    for tokens in ([7, 5, 100], [7, 0, 100]):
        record_tokens(
            launcher, torch.tensor(tokens, device=device), torch.tensor([4, 2, 1], device=device), table
        )

    assert torch.equal(table.counts[0].cpu(), token_counts([5, 5, 6], [6, 7, 7, 7], VOCABULARY))
    assert not table.counts[1].any()
    assert torch.equal(table.counts[2].cpu(), token_counts([1], [5, 0], VOCABULARY))


def test_more_lines_than_a_program_counts(launcher: Launcher, device: torch.device) -> None:
    lines = 300
    table = AdjustmentTable.neutral(lines, 11, counted_rows=lines, capacity=1, device=device)
    table.count_rows.copy_(torch.arange(lines))
    tokens = torch.randint(11, (lines,), device=device)

    record_tokens(launcher, tokens, torch.arange(lines, device=device), table)

    assert torch.equal(table.counts, torch.nn.functional.one_hot(tokens, 11).int() * 2)


def test_counts_may_lie_past_two_to_the_31_elements(
    launcher: Launcher, device: torch.device, positions: torch.Tensor
) -> None:
    vocabulary, row = 2**24, 2**7 + 1
    torch.use_deterministic_algorithms(False)  # Memory must not be touched but where the row's counts are.
    table = AdjustmentTable.neutral(ROWS, 1, 1, 1, device)
    table.count_rows[0] = row
    counts = torch.empty((row + 1, vocabulary), dtype=torch.int32, device=device)
    counts[row, 5] = 1
    object.__setattr__(table, "counts", counts)

    record_tokens(launcher, torch.tensor([5], device=device), torch.tensor([0], device=device), table)

    assert int(counts[row, 5]) == 3


@pytest.mark.parametrize("variant", [*variants(ModelShape("bf16", 32, 8, 128, 4096, 14336, 16))], ids=str)
def test_every_variant_compiles(variant: Variant) -> None:
    assert compile_variant(variant, 90).cubin
