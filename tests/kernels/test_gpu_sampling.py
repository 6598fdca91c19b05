"""Tokens drawn on the GPU: the reference's own for the same keys, and of the distribution that was asked for."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from kernels.draws import DrawTable
from kernels.gpu.launcher import Launcher
from kernels.gpu.sampling import DrawTiles, sample
from kernels.gpu.specification import UnsupportedShape
from kernels.sampling import gumbel_noise, keep_likely, noise_key

pytestmark = pytest.mark.usefixtures("uninitialised_is_nan")

SMALL = DrawTiles(block=256, part=64, parts=2, chunk=64)
"""So small that a short line has many blocks, merges and chunks."""


def table_of(rows: int, device: torch.device, **values: Tensor | float) -> DrawTable:
    """Rows with seeds of their own, at temperature 1 unless told."""
    table = DrawTable.greedy(rows, device)
    given = {"temperatures": 1.0, "seeds": torch.randint(-(2**63), 2**63 - 1, (rows,))} | values
    for name, value in given.items():
        getattr(table, name).copy_(torch.as_tensor(value))
    return table


def mixed_table(rows: int, device: torch.device) -> DrawTable:
    """Greedy rows and drawn ones, every cut by itself and with the others."""
    row = torch.arange(rows)
    return table_of(
        rows, device,
        temperatures=torch.where(row % 7 == 0, 0.0, torch.rand(rows) * 1.5 + 0.3),
        top_ks=torch.where(row % 3 == 1, torch.randint(1, 60, (rows,)), 0),
        top_ps=torch.where(row % 4 > 1, torch.rand(rows) * 0.9 + 0.1, 1.0),
        min_ps=torch.where(row % 5 == 1, torch.rand(rows) * 0.3, 0.0),
        choices=torch.randint(0, 128, (rows,)), positions=torch.randint(0, 2**17, (rows,)),
    )


def reference_scores(logits: Tensor, rows: Tensor, table: DrawTable) -> Tensor:
    """What the token chosen is the maximum of."""
    logits, vocabulary = logits.float().cpu(), logits.shape[1]
    of_row = {field.name: getattr(table, field.name).cpu()[rows.cpu()] for field in fields(table)}
    greedy = (of_row["temperatures"] < 1e-5)[:, None]
    scaled = logits / of_row["temperatures"][:, None].clamp(min=1e-5)
    top_ks = of_row["top_ks"].long()
    top_ks = torch.where((top_ks <= 0) | (top_ks > vocabulary), vocabulary, top_ks)
    scaled = keep_likely(scaled, top_ks, of_row["top_ps"], of_row["min_ps"])
    keys = zip(*(of_row[name].tolist() for name in ("seeds", "choices", "positions")), strict=True)
    words = torch.tensor([noise_key(*key) for key in keys], dtype=torch.int32)
    noise = gumbel_noise(words, vocabulary)
    return torch.where(greedy, logits, scaled + noise)


def assert_same_draw(tokens: Tensor, logits: Tensor, rows: Tensor, table: DrawTable) -> None:
    """The best score's token, or one whose score differs in the last bits."""
    scores = reference_scores(logits, rows, table)
    chosen = scores.gather(1, tokens.cpu()[:, None]).squeeze(1)
    different = tokens.cpu() != scores.argmax(-1)
    assert bool((scores.amax(-1) - chosen <= 1e-5).all()), f"lines {different.nonzero().flatten().tolist()}"
    assert int(different.sum()) <= 1


# What is drawn.


@pytest.mark.parametrize(
    ("dtype", "vocabulary"),
    [(torch.float32, 1), (torch.float32, 700), (torch.float16, 256), (torch.float16, 61)],
    ids=str,
)
def test_tokens_are_the_references(
    launcher: Launcher, device: torch.device, dtype: torch.dtype, vocabulary: int
) -> None:
    table = mixed_table(14, device)
    rows = torch.randperm(14, device=device)
    logits = (torch.randn(14, vocabulary, device=device) * 3).to(dtype)

    tokens, sound = sample(launcher, logits, rows, table, True, SMALL)

    assert_same_draw(tokens, logits, rows, table)
    assert bool(sound.all())


@pytest.mark.parametrize("width", [0.01, 1.0, 30.0], ids=["flat", "usual", "sharp"])
def test_tokens_are_the_references_with_the_tiles_of_service(
    launcher: Launcher, device: torch.device, width: float
) -> None:
    table = mixed_table(6, device)
    rows = torch.arange(6, device=device)
    logits = torch.randn(6, 5003, device=device) * width

    tokens, _ = sample(launcher, logits, rows, table, True)

    assert_same_draw(tokens, logits, rows, table)


def test_lines_that_cut_nothing_are_drawn_in_parts_of_any_number(launcher: Launcher, device: torch.device) -> None:
    table = table_of(70, device, temperatures=torch.tensor([0.0, 0.7]).repeat(35))
    rows = torch.arange(70, device=device)
    logits = torch.randn(70, 300, device=device)

    tokens, _ = sample(launcher, logits, rows, table, False, SMALL)

    assert_same_draw(tokens, logits, rows, table)


def test_the_noise_is_the_references_bit_for_bit_of_its_keys(launcher: Launcher, device: torch.device) -> None:
    """Among equal logits the noise alone decides: a wrong bit in a key or hash would choose other tokens."""
    extremes = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**31), 2**31])
    table = table_of(
        40, device, seeds=torch.cat((extremes, torch.randint(-(2**63), 2**63 - 1, (32,)))),
        choices=torch.randint(0, 128, (40,)), positions=torch.randint(0, 2**40, (40,)),
    )
    rows = torch.arange(40, device=device)
    logits = torch.zeros(40, 3000, device=device)

    tokens, _ = sample(launcher, logits, rows, table, False)

    assert_same_draw(tokens, logits, rows, table)
    assert len(set(tokens.tolist())) > 35


def test_another_position_on_the_device_draws_anew(launcher: Launcher, device: torch.device) -> None:
    """As a CUDA graph does it: the same call, and only the numbers in the table have moved on."""
    table = table_of(20, device)
    rows = torch.arange(20, device=device)
    logits = torch.zeros(20, 200, device=device)
    drawn = []
    for _ in range(3):
        tokens, _ = sample(launcher, logits, rows, table, False, SMALL)
        assert_same_draw(tokens, logits, rows, table)
        drawn.append(tokens.tolist())
        table.positions.add_(1)
    assert len({token for tokens in zip(*drawn, strict=True) for token in set(tokens)}) > 30


def test_a_token_is_the_same_in_any_company(launcher: Launcher, device: torch.device) -> None:
    table = mixed_table(10, device)
    logits = torch.randn(10, 300, device=device)
    together, _ = sample(launcher, logits, torch.arange(10, device=device), table, True, SMALL)

    order = torch.randperm(10, device=device)
    shuffled, _ = sample(launcher, logits[order], order, table, True, SMALL)
    alone, _ = sample(launcher, logits[9:10], torch.tensor([9], device=device), table, True, SMALL)

    assert torch.equal(shuffled, together[order])
    assert torch.equal(alone, together[9:10])


# What stays.


def seeds_that_favour(tokens: list[int], vocabulary: int) -> Tensor:
    """For each token a seed whose noise for it is 4 above all others', so that it is drawn if only it stays."""
    seeds = torch.arange(40_000)
    keys = torch.tensor([noise_key(seed, 0, 0) for seed in seeds.tolist()], dtype=torch.int32)
    noise = gumbel_noise(keys, vocabulary)
    first, second = noise.topk(min(2, vocabulary)).values.T
    clear = first - second > 4
    return torch.stack([seeds[clear & (noise.argmax(-1) == token)][0] for token in tokens])


def kept(launcher: Launcher, device: torch.device, logits: list[float], tokens: list[int], **cuts: float) -> set[int]:
    """Those of the tokens, at most 2 less likely than the best, that are drawn when their noise wants it."""
    lines = torch.tensor([logits], device=device).expand(len(tokens), -1)
    table = table_of(len(tokens), device, seeds=seeds_that_favour(tokens, len(logits)), **cuts)
    drawn, _ = sample(launcher, lines, torch.arange(len(tokens), device=device), table, True, SMALL)
    return {token for token, other in zip(tokens, drawn.tolist(), strict=True) if token == other}


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ({"top_ks": 1}, {2, 3}), ({"top_ks": 2}, {2, 3}), ({"top_ks": 3}, {0, 2, 3, 4}),
        ({"top_ps": 0.1}, {2, 3}), ({"top_ps": 0.7}, {0, 2, 3, 4}), ({"min_ps": 0.9}, {2, 3}), ({"min_ps": 1}, {2, 3}),
        # Of three tokens' mass, 1 + 1 + 0.37, more than 0.8 takes all of the third's equals.
        ({"top_ks": 3, "top_ps": 0.9}, {0, 2, 3, 4}), ({"top_ks": 3, "top_ps": 0.8}, {2, 3}),
        ({"top_ks": 5, "min_ps": 0.5}, {2, 3}), ({"top_ks": 100}, {0, 1, 2, 3, 4}),
    ],
    ids=str,
)
def test_tokens_as_likely_as_the_last_one_kept_stay(
    launcher: Launcher, device: torch.device, cuts: dict[str, float], expected: set[int]
) -> None:
    assert kept(launcher, device, [1.0, 0.0, 2.0, 2.0, 1.0], [0, 1, 2, 3, 4], **cuts) == expected


@pytest.mark.parametrize(
    "cuts", [{"top_ks": 3}, {"top_ps": 0.9}, {"top_ks": 30, "top_ps": 0.99, "min_ps": 1e-9}], ids=str
)
def test_banned_tokens_are_not_drawn_though_room_is_left(
    launcher: Launcher, device: torch.device, cuts: dict[str, float]
) -> None:
    logits = [-math.inf] * 300
    logits[280], logits[10] = 0.0, -0.0

    assert kept(launcher, device, logits, [10, 11, 280], **cuts) == {10, 280}


def test_draws_follow_the_distribution_asked_for(launcher: Launcher, device: torch.device) -> None:
    draws, vocabulary = 60, 5
    logits = torch.randn(1, vocabulary) * 0.7
    table = table_of(draws, device, temperatures=1.3, top_ks=4, top_ps=0.9)
    rows = torch.arange(draws, device=device)

    tokens, _ = sample(launcher, logits.to(device).expand(draws, -1), rows, table, True, SMALL)

    scaled = keep_likely(logits / 1.3, torch.tensor([4]), torch.tensor([0.9]), torch.zeros(1))
    expected = scaled.softmax(-1)[0] * draws
    counts = torch.bincount(tokens.cpu(), minlength=vocabulary)
    stays = expected > 0
    assert not counts[~stays].any()
    statistic = float(((counts - expected)[stays].square() / expected[stays]).sum())
    spread = 2 / (9 * max(int(stays.sum()) - 1, 1))
    # Wilson and Hilferty's approximation of the value passed by chance once in a million.
    assert statistic < 2 / 9 / spread * (1 - spread + 4.75 * math.sqrt(spread)) ** 3


# Rows without noise, and logits that are not numbers.


def test_greedy_takes_the_lowest_of_equals(launcher: Launcher, device: torch.device) -> None:
    logits = torch.zeros(3, 700, device=device)
    logits[0, [699, 140, 141]] = 1.0
    logits[1, 257:] = 2.0

    tokens, _ = sample(
        launcher, logits, torch.arange(3, device=device), DrawTable.greedy(3, device), False, SMALL
    )

    assert tokens.tolist() == [140, 257, 0]


@pytest.mark.parametrize("cuts", [{"temperatures": 0.0}, {}, {"top_ks": 4}, {"top_ps": 0.5, "min_ps": 0.1}], ids=str)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_logit_that_is_no_number_is_noticed(
    launcher: Launcher, device: torch.device, cuts: dict[str, float], wrong: float
) -> None:
    logits = torch.randn(3, 300, device=device)
    logits[1, 211] = wrong
    table = table_of(3, device, **cuts)

    tokens, sound = sample(launcher, logits, torch.arange(3, device=device), table, True, SMALL)

    assert sound.tolist() == [True, False, True]
    assert tokens[1] == 211


@pytest.mark.parametrize("cuts", [{"temperatures": 0.0}, {}, {"top_ks": 4}], ids=str)
def test_a_line_without_any_possible_token_is_noticed(
    launcher: Launcher, device: torch.device, cuts: dict[str, float]
) -> None:
    logits = torch.full((1, 300), -math.inf, device=device)

    tokens, sound = sample(
        launcher, logits, torch.tensor([0], device=device), table_of(1, device, **cuts), True, SMALL
    )

    assert (tokens.tolist(), sound.tolist()) == ([0], [False])


# Around the draw.


def test_lines_may_lie_past_two_to_the_31_elements(launcher: Launcher, device: torch.device) -> None:
    torch.use_deterministic_algorithms(False)  # Memory must not be touched but where the lines are.
    logits = torch.empty_strided((3, 200), (2**30 + 16, 1), dtype=torch.float16, device=device)
    logits.copy_(torch.randn(3, 200, device=device))
    table = table_of(3, device, top_ks=torch.tensor([0, 0, 20]))
    rows = torch.arange(3, device=device)

    tokens, sound = sample(launcher, logits, rows, table, True, SMALL)

    assert_same_draw(tokens, logits, rows, table)
    assert bool(sound.all())


def test_no_line_draws_nothing(launcher: Launcher, device: torch.device) -> None:
    table = DrawTable.greedy(1, device)
    none = torch.empty(0, dtype=torch.int64, device=device)

    tokens, sound = sample(launcher, torch.empty(0, 300, device=device), none, table, True)

    assert (tokens.shape, sound.shape) == ((0,), (0,))


def test_lines_whose_logits_lie_apart_are_refused(launcher: Launcher, device: torch.device) -> None:
    with pytest.raises(UnsupportedShape):
        sample(
            launcher, torch.randn(300, 2, device=device).T, torch.arange(2, device=device),
            DrawTable.greedy(2, device), False,
        )
