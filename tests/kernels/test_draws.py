"""Drawing by parameters on the device is drawing by parameters on the host."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kernels.draws import DrawTable, draw
from kernels.operations import ReferenceOperations
from kernels.sampling import gumbel_noise, keep_likely, noise_key, noise_keys

WORDS = st.integers(-(2**63), 2**63 - 1)
VOCABULARY = 60


@given(st.lists(st.tuples(WORDS, st.integers(0, 127), st.integers(0, 2**40)), min_size=1, max_size=9))
def test_keys_made_on_the_device_are_those_made_on_the_host(parts: list[tuple[int, int, int]]) -> None:
    seeds, choices, positions = (torch.tensor(column) for column in zip(*parts, strict=True))
    keys = noise_keys(seeds, choices.to(torch.int32), positions)
    assert keys.dtype is torch.int32
    assert keys.tolist() == [list(noise_key(*part)) for part in parts]


def random_table(rows: int) -> DrawTable:
    """Some rows greedy, some cutting in every way."""
    kind = torch.arange(rows) % 5
    table = DrawTable.greedy(rows, torch.device("cpu"))
    table.temperatures[:] = torch.where(kind == 0, 0.0, torch.rand(rows) + 0.5)
    table.top_ks[:] = torch.where(kind == 2, 5, 0)
    table.top_ps[:] = torch.where(kind == 3, 0.6, 1.0)
    table.min_ps[:] = torch.where(kind == 4, 0.2, 0.0)
    table.seeds[:] = torch.randint(-(2**62), 2**62, (rows,))
    table.choices[:] = torch.randint(0, 4, (rows,), dtype=torch.int32)
    table.positions[:] = torch.randint(1, 5000, (rows,))
    return table


def drawn_alone(logits: Tensor, row: int, table: DrawTable) -> int:
    """One line's token, by the functions that take their parameters from the host."""
    if table.temperatures[row] == 0:
        return int(logits.argmax())
    scaled = (logits / table.temperatures[row])[None]
    top_k = table.top_ks[row : row + 1].long()
    top_k = torch.where(top_k > 0, top_k, VOCABULARY)
    scaled = keep_likely(scaled, top_k, table.top_ps[row : row + 1], table.min_ps[row : row + 1])
    key = noise_key(int(table.seeds[row]), int(table.choices[row]), int(table.positions[row]))
    return int((scaled + gumbel_noise(torch.tensor([key], dtype=torch.int32), VOCABULARY)).argmax())


def test_each_line_is_drawn_as_its_row_says_in_any_company() -> None:
    table, logits = random_table(40), torch.randn(30, VOCABULARY) * 2
    rows = torch.randperm(40)[:30]
    tokens, sound = draw(logits, rows, table, cutting=True)
    assert tokens.tolist() == [drawn_alone(line, int(row), table) for line, row in zip(logits, rows, strict=True)]
    assert bool(sound.all())


def test_a_line_that_is_not_a_number_is_reported() -> None:
    logits = torch.randn(3, VOCABULARY)
    logits[1, 7] = float("nan")
    sound = draw(logits, torch.arange(3), DrawTable.greedy(3, torch.device("cpu")), cutting=True)[1]
    assert sound.tolist() == [True, False, True]


def test_decodes_described_by_tensors_attend_as_those_described_by_numbers() -> None:
    operations, positions = ReferenceOperations(), [0, 13, 5, 31]
    keys, values = torch.randn(2, 50, 4, 2, 16)
    tables = torch.randperm(48)[:48].view(6, 8)
    rows = torch.tensor([4, 1, 5, 0])
    query = torch.randn(6, 4, 16)
    expected = operations.attention(positions, [1] * 4, tables[rows], 4).attend(query[:4], keys, values, 0.25, 9)
    present, absent = [[int(row), i, positions[i], 1] for i, row in enumerate(rows)], [[3, 4, 0, 0], [3, 5, 0, 0]]
    tiles = torch.tensor(present + absent)
    attended = operations.decode_attention(tiles.to(torch.int32), tables, 4, 32).attend(query, keys, values, 0.25, 9)
    assert torch.equal(attended[:4], expected)
