"""What the device knows of each request, and how little is sent for it to know."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine import rows as rows_module
from engine.request import SamplingParams
from engine.rows import Rows, columns
from tests.engine.stubs import make_request

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> Rows:
    return Rows(3, 32, 4, CPU, padding_page=99)


class Sent:
    """Counts the numbers that are sent to the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._staged = rows_module.staged
        monkeypatch.setattr(rows_module, "staged", self)

    def __call__(self, *arguments: object) -> Tensor:
        tensor = self._staged(*arguments)  # type: ignore[arg-type]
        self.sizes.append(tensor.numel())
        return tensor


def test_a_row_holds_the_requests_tokens_and_pages(rows: Rows) -> None:
    request = make_request([5, 6, 7, 8, 9])
    request.pages = [40, 41]
    (row,) = rows.update([request])
    assert rows.tokens[row, :5].tolist() == [5, 6, 7, 8, 9]
    assert rows.page_tables[row, :2].tolist() == [40, 41]


def test_only_what_is_new_is_sent(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request([5, 6, 7, 8])
    request.pages = [40]
    (row,) = rows.update([request])
    sent = Sent(monkeypatch)
    rows.update([request])
    assert sent.sizes == []
    request.tokens.append(1)
    request.pages.append(41)
    rows.update([request])
    assert sent.sizes == [2, 2], "a place and a value each"
    assert rows.tokens[row, :5].tolist() == [5, 6, 7, 8, 1]


def test_a_token_that_the_device_sampled_is_not_sent_again(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request([5, 6])
    (row,) = rows.update([request])
    rows.append(torch.tensor([row]), torch.tensor([2]), torch.tensor([77]))
    rows.appended([request])
    sent = Sent(monkeypatch)
    request.tokens.append(77)
    rows.update([request])
    assert sent.sizes == []
    assert rows.tokens[row, :3].tolist() == [5, 6, 77]


def test_how_tokens_are_drawn_is_sent_with_the_row_and_never_again(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125)
    request = make_request([5], params=params, choice=3)
    request.seed = 2**64 - 5
    (row,) = rows.update([request])
    draws = rows.draws
    assert [float(column[row]) for column in draws.cuts()] == [0.5, 7, 0.25, 0.125]
    assert [int(draws.seeds[row]), int(draws.choices[row])] == [-5, 3]
    sent = Sent(monkeypatch)
    rows.update([request])
    assert sent.sizes == []


def test_a_row_that_changes_hands_keeps_nothing(rows: Rows) -> None:
    first = make_request([5, 6, 7], params=SamplingParams(temperature=1.0, top_k=4, logprobs=0))
    (row,) = rows.update([first])
    rows.release(first)
    rows.release(first)
    assert rows.idle
    assert not rows.special
    assert rows.update([make_request([8], params=SamplingParams(temperature=0))]) == [row]
    assert [float(column[row]) for column in rows.draws.cuts()] == [0.0, 0, 1.0, 0.0]
    assert rows.tokens[row, 0] == 8


@pytest.mark.parametrize(("top_k", "kept"), [(2**40, 2**31 - 1), (-1, -1), (0, 0)])
def test_any_top_k_fits(rows: Rows, top_k: int, kept: int) -> None:
    (row,) = rows.update([make_request([5], params=SamplingParams(top_k=top_k))])
    assert rows.draws.top_ks[row] == kept


@pytest.mark.parametrize(
    ("special", "params"),
    [
        (False, SamplingParams(temperature=0)), (False, SamplingParams(top_p=0.5, top_k=3, seed=1)),
        (True, SamplingParams(presence_penalty=0.5)), (True, SamplingParams(logit_bias={3: 1.0})),
        (True, SamplingParams(min_tokens=2)), (True, SamplingParams(logprobs=0)),
    ],
)
def test_requests_that_want_more_than_a_draw_are_known(rows: Rows, special: bool, params: SamplingParams) -> None:
    request = make_request([5], params=params)
    rows.update([request])
    assert (request in rows.special) == special


def test_the_padding_row_is_never_given_to_a_request(rows: Rows) -> None:
    given = rows.update([make_request([5]) for _ in range(3)])
    assert sorted([*given, rows.padding]) == [0, 1, 2, 3]
    assert set(rows.page_tables[rows.padding].tolist()) == {99}


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64])
def test_columns_start_where_kernels_may_read_them(length: int) -> None:
    lists = [list(range(length)), list(range(100, 100 + length)), [7] * length]
    for dtype in (torch.int64, torch.float32):
        sent = columns(lists, CPU, dtype)
        first = sent[0].data_ptr()
        assert [column.tolist() for column in sent] == lists
        assert all((column.data_ptr() - first) % 16 == 0 for column in sent)
