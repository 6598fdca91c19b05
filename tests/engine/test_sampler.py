"""Tokens are drawn from the distribution that was asked for, and from nothing else that happens to be in the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.request import Request, SamplingParams, TokenLogprob
from engine.rows import Rows
from engine.sampler import Sampled, Sampler, token_logprobs
from kernels.operations import ReferenceOperations
from kernels.sampling import keep_likely, penalise
from tests.engine.stubs import make_request

VOCABULARY = 50
EOS = 7


class Sampling:
    """A sampler, and rows that requests have for as long as one token takes."""

    def __init__(self) -> None:
        self._rows = Rows(2000, 512, 16, torch.device("cpu"))
        eos_token_ids = frozenset({EOS, VOCABULARY + 3})
        self._sampler = Sampler(VOCABULARY, eos_token_ids, ReferenceOperations(), self._rows.draws)

    def sample(self, logits: Tensor, requests: Sequence[Request]) -> Sampled:
        rows = torch.tensor(self._rows.update(requests))
        lengths = torch.tensor([request.length for request in requests])
        sampled = self._sampler.sample(logits, requests, rows, lengths, self._rows.tokens)
        for request in requests:
            self._rows.release(request)
        return sampled


@pytest.fixture
def sampler() -> Sampling:
    return Sampling()


def logits_of(rows: int, vocabulary: int = VOCABULARY, seed: int = 0, width: float = 2.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * width


def asking(
    seed: int = 0, output: Sequence[int] = (), prompt: Sequence[int] = (1, 2), choice: int = 0, **params: Any
) -> Request:
    """A request that has given `output` so far."""
    request = make_request(prompt, params=SamplingParams(max_tokens=400, **params), choice=choice)
    request.tokens += output
    request.seed = seed
    return request


def tokens_of(sampler: Sampling, logits: Tensor, requests: Sequence[Request]) -> list[int]:
    return sampler.sample(logits, requests).tokens.tolist()


@dataclass
class Row:
    """What one request was given."""

    token_id: int
    sound: bool
    logprob: TokenLogprob | None


def rows_of(sampler: Sampling, logits: Tensor, requests: Sequence[Request]) -> list[Row]:
    return [Row(*row) for row in sampler.sample(logits, requests).read()]


# Choosing.


def test_greedy_takes_the_most_likely_token(sampler: Sampling) -> None:
    logits = logits_of(20)
    assert tokens_of(sampler, logits, [asking(temperature=0) for _ in range(20)]) == logits.argmax(-1).tolist()


def test_a_draw_is_the_same_in_any_company(sampler: Sampling) -> None:
    logits = logits_of(12)
    params: list[dict[str, Any]] = [
        {}, {"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"presence_penalty": 1.0},
    ]
    requests = [asking(seed, [3, 4], **params[seed % 6]) for seed in range(12)]
    alone = [tokens_of(sampler, logits[i : i + 1], requests[i : i + 1])[0] for i in range(12)]
    assert tokens_of(sampler, logits, requests) == alone
    assert tokens_of(sampler, logits.flip(0), requests[::-1]) == alone[::-1]
    greedy = [asking(temperature=0) for _ in range(12)]
    mixed = [request for pair in zip(greedy, requests, strict=True) for request in pair]
    assert tokens_of(sampler, logits.repeat_interleave(2, 0), mixed)[1::2] == alone


@pytest.mark.parametrize(
    "others",
    [
        [asking(seed) for seed in range(200)],
        [asking(0, choice=choice) for choice in range(200)],
        [asking(0, [3] * length) for length in range(200)],
    ],
    ids=["seed", "choice", "position"],
)
def test_another_seed_choice_or_position_draws_anew(sampler: Sampling, others: list[Request]) -> None:
    drawn = tokens_of(sampler, torch.zeros(200, VOCABULARY), others)
    counts = torch.bincount(torch.tensor(drawn), minlength=VOCABULARY)
    assert len(set(drawn)) > 40, "200 draws from 50 equal tokens"
    assert int(counts.max()) < 15


def test_a_preempted_request_draws_as_if_nothing_had_been(sampler: Sampling) -> None:
    logits = logits_of(1)
    request = asking(3, [4, 5], presence_penalty=0.5, top_p=0.9)
    before = tokens_of(sampler, logits, [request])
    request.preemptions, request.computed, request.pages = 1, 0, []
    assert tokens_of(sampler, logits, [request]) == before


def frequencies(sampler: Sampling, logits: Tensor, draws: int, **params: Any) -> Tensor:
    """How often each token is drawn, each draw with a seed of its own."""
    counts = torch.zeros(logits.shape[-1], dtype=torch.int64)
    for first in range(0, draws, 2000):
        requests = [asking(seed, **params) for seed in range(first, first + 2000)]
        drawn = tokens_of(sampler, logits.expand(2000, -1), requests)
        counts += torch.bincount(torch.tensor(drawn), minlength=logits.shape[-1])
    return counts


def chi_square_bound(freedom: int) -> float:
    """Passed by chance once in ten thousand (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "params",
    [
        {}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.2},
        {"top_k": 8, "top_p": 0.9, "min_p": 0.05, "temperature": 1.3},
    ],
    ids=str,
)
def test_draws_follow_the_distribution_asked_for(sampler: Sampling, params: dict[str, float]) -> None:
    draws = 8000
    logits = logits_of(1, seed=5, width=1.0)
    counts = frequencies(sampler, logits, draws, **params)
    expected = filtered_probabilities(logits[0] / params.get("temperature", 1.0), params) * draws
    assert not counts[expected == 0].any()
    kept = expected > 0
    statistic = float(((counts - expected)[kept].square() / expected[kept]).sum())
    assert statistic < chi_square_bound(int(kept.sum()) - 1)


def filtered_probabilities(scaled: Tensor, params: dict[str, float]) -> Tensor:
    top_k, top_p, min_p = int(params.get("top_k", 0)), params.get("top_p", 1.0), params.get("min_p", 0.0)
    kept = oracle_kept(scaled.tolist(), top_k, top_p, min_p)
    mask = torch.tensor([token in kept for token in range(len(scaled))])
    return scaled.masked_fill(~mask, float("-inf")).softmax(-1)


# Keeping the likely.


def oracle_kept(logits: Sequence[float], top_k: int, top_p: float, min_p: float) -> list[int]:
    """What stays, by a plain sort of the whole row; a token as likely as the last one kept stays too."""
    best = max(logits)
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    order = [token for token in order if min_p == 0 or logits[token] >= best + math.log(min_p)]
    order = order[: top_k if top_k > 0 else None]
    total = math.fsum(math.exp(logits[token] - best) for token in order)
    kept: list[int] = []
    mass = 0.0
    for token in order:
        if kept and top_p < 1 and mass >= top_p:
            break
        kept.append(token)
        mass += math.exp(logits[token] - best) / total
    last = logits[kept[-1]]
    floor = best + math.log(min_p) if min_p else float("-inf")
    return [token for token, logit in enumerate(logits) if logit >= max(last, floor)]


def kept_by_kernel(
    rows: Sequence[Sequence[float]], top_k: list[int], top_p: list[float], min_p: list[float]
) -> list[list[int]]:
    logits = torch.tensor(rows)
    sizes = torch.tensor([k if k > 0 else logits.shape[-1] for k in top_k])
    filtered = keep_likely(logits, sizes, torch.tensor(top_p), torch.tensor(min_p))
    assert torch.equal(filtered[filtered.isfinite()], logits[filtered.isfinite()])
    return [row.isfinite().nonzero().flatten().tolist() for row in filtered]


# Logits are multiples of 1/4, so that equal ones are common, and shares keep off the sums that float32 rounds.
FILTERS = st.tuples(
    st.lists(st.integers(-40, 40), min_size=12, max_size=12).map(lambda row: [value / 4 for value in row]),
    st.integers(0, 12), st.sampled_from([1.0, 0.95, 0.83, 0.5, 0.21, 0.01]),
    st.sampled_from([0.0, 0.0, 0.013, 0.3, 1.0]),
)


def near_a_boundary(row: Sequence[float], top_k: int, top_p: float, min_p: float) -> bool:
    """Whether float32 may fairly decide otherwise than float64."""
    shares = [top_p * scale if top_p < 1 else 1.0 for scale in (1 - 1e-5, 1, 1 + 1e-5)]
    return len({tuple(oracle_kept(row, top_k, share, min_p)) for share in shares}) > 1


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(FILTERS, min_size=1, max_size=5))
@example(rows=[([0.0] * 12, 3, 1.0, 0.0), ([0.0] * 12, 0, 0.5, 0.0), ([0.0] * 12, 0, 1.0, 1.0)])
def test_filters_keep_what_a_full_sort_keeps(rows: list[tuple[list[float], int, float, float]]) -> None:
    rows = [row for row in rows if not near_a_boundary(*row)]
    if rows:
        logits, top_k, top_p, min_p = (list(column) for column in zip(*rows, strict=True))
        assert kept_by_kernel(logits, top_k, top_p, min_p) == [oracle_kept(*row) for row in rows]


@pytest.mark.parametrize("width", [0.0, 0.01, 1.0, 12.0])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 0.9, 0.0), (0, 0.999, 0.0), (1500, 1.0, 0.0), (1500, 0.97, 0.0), (1024, 1.0, 0.0), (1025, 0.5, 0.0),
        (2999, 0.95, 0.0), (3000, 0.95, 0.0), (10, 0.8, 0.0), (0, 0.95, 0.3), (2000, 0.95, 0.9), (0, 1.0, 0.0),
    ],
)
def test_filters_look_past_the_window_when_they_must(width: float, top_k: int, top_p: float, min_p: float) -> None:
    logits = logits_of(1, 3000, seed=3, width=width)
    [kept] = kept_by_kernel(logits.tolist(), [top_k], [top_p], [min_p])
    expected = oracle_kept(logits[0].tolist(), top_k, top_p, min_p)
    # Float32 sums over thousands of nearly equal probabilities may move the border by a token in a thousand.
    assert len(set(kept) ^ set(expected)) <= (3 if top_p < 1 and width else 0)


def test_a_row_without_filters_is_untouched_beside_one_with(sampler: Sampling) -> None:
    logits = logits_of(2, 3000, width=0.01).tolist()
    kept = kept_by_kernel(logits, [0, 1500], [1.0, 0.9], [0.0, 0.1])
    assert len(kept[0]) == 3000
    assert len(kept[1]) < 1500


def test_the_best_token_always_stays() -> None:
    logits = logits_of(4, 100)
    kept = kept_by_kernel(logits.tolist(), [1, 0, 0, 1], [1.0, 1e-6, 1.0, 1e-6], [0.0, 0.0, 1.0, 1.0])
    assert kept == [[int(best)] for best in logits.argmax(-1)]


# Penalties, biases and minimum lengths.


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99), prompt=st.lists(st.integers(0, 9), max_size=8),
    output=st.lists(st.integers(0, 9), max_size=8), presence=st.sampled_from([0.0, 1.5, -1.0]),
    frequency=st.sampled_from([0.0, 0.7, -0.5]),
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
)
def test_penalties_equal_a_loop_over_tokens(
    seed: int, prompt: list[int], output: list[int], presence: float, frequency: float, repetition: float
) -> None:
    logits = logits_of(1, 10, seed)
    expected = logits[0].tolist()
    for token in range(10):
        if token in prompt or token in output:
            expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
        expected[token] -= frequency * output.count(token) + presence * (token in output)
    counts = [torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=10)[None] for ids in (prompt, output)]
    penalised = penalise(logits, *counts, *(torch.tensor([value]) for value in (presence, frequency, repetition)))
    assert penalised[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_only_the_row_that_asks_is_penalised(sampler: Sampling) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 3], logits[:, 4] = 2.0, 1.0
    requests = [asking(0, [3], temperature=0, presence_penalty=1.5), asking(0, [3], temperature=0)]
    given_logits = logits.clone()
    assert tokens_of(sampler, logits, requests) == [4, 3]
    assert torch.equal(logits, given_logits), "the logits given were changed"


def test_presence_and_frequency_look_at_the_output_and_repetition_at_the_prompt_too(sampler: Sampling) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 3], logits[:, 4] = 1.0, 0.9
    requests = [
        asking(prompt=[3], temperature=0, presence_penalty=2.0, frequency_penalty=2.0),
        asking(prompt=[3], temperature=0, repetition_penalty=1.5),
    ]
    assert tokens_of(sampler, logits, requests) == [3, 4]


@pytest.mark.parametrize("bias", [5, 5.0])
def test_a_bias_is_added_to_its_token(sampler: Sampling, bias: float) -> None:
    requests = [asking(temperature=0, logit_bias={9: bias, 10: -100}), asking(temperature=0)]
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 10] = 1.0
    assert tokens_of(sampler, logits, requests) == [9, 10]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_is_drawn_before_min_tokens(sampler: Sampling, temperature: float) -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, [EOS, 11, 12]] = torch.tensor([9.0, 8.0, 7.0]) * 10
    params: dict[str, Any] = {"temperature": temperature, "min_tokens": 3, "stop_token_ids": (11,)}
    drawn = [tokens_of(sampler, logits, [asking(0, [5] * length, **params)])[0] for length in range(5)]
    assert drawn == [12, 12, 12, EOS, EOS]


def test_one_likely_token_is_drawn_whatever_the_noise(sampler: Sampling) -> None:
    logits = logits_of(1)
    requests = [asking(seed, top_k=1) for seed in range(300)]
    assert set(tokens_of(sampler, logits.expand(300, -1), requests)) == {int(logits.argmax())}


def test_extreme_temperatures_draw_sound_tokens(sampler: Sampling) -> None:
    logits = logits_of(1, width=100.0)
    cold = [asking(seed, temperature=2e-5) for seed in range(50)]
    assert set(tokens_of(sampler, logits.expand(50, -1), cold)) == {int(logits.argmax())}
    hot = rows_of(sampler, logits.expand(50, -1), [asking(seed, temperature=1e38) for seed in range(50)])
    assert all(sampled.sound for sampled in hot)
    assert len({sampled.token_id for sampled in hot}) > 20


# Log probabilities and unsound logits.


def test_logprobs_are_of_the_raw_logits(sampler: Sampling) -> None:
    logits = logits_of(3)
    requests = [
        asking(1, [4], logprobs=5, temperature=0.3, presence_penalty=2.0, logit_bias={4: 9.0}),
        asking(2, temperature=0), asking(3, logprobs=0),
    ]
    first, second, third = rows_of(sampler, logits, requests)
    wanted = logits.log_softmax(-1)
    assert first.logprob is not None
    assert first.logprob.token_id == first.token_id
    assert first.logprob.logprob == pytest.approx(float(wanted[0, first.token_id]), abs=1e-5)
    best = wanted[0].topk(5)
    assert [token for token, _ in first.logprob.top] == best.indices.tolist()
    assert [logprob for _, logprob in first.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert second.logprob is None
    assert third.logprob is not None
    assert third.logprob.top == ()


def test_ranks_count_the_tokens_that_are_more_likely() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0]] * 4)
    ranks = [found.rank for found in token_logprobs(logits, torch.arange(4), [0] * 4).read()]
    assert ranks == [4, 1, 3, 1]


def test_more_logprobs_than_tokens_gives_them_all() -> None:
    [found] = token_logprobs(torch.zeros(1, 3), torch.tensor([0]), [20]).read()
    assert len(found.top) == 3
    assert sum(math.exp(logprob) for _, logprob in found.top) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "params", [{"temperature": 0}, {}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2, "logprobs": 2}], ids=str
)
def test_logits_that_are_not_numbers_are_reported_for_their_row_alone(
    sampler: Sampling, bad: float, params: dict[str, Any]
) -> None:
    logits = logits_of(3)
    logits[1, 20] = bad
    found = rows_of(sampler, logits, [asking(seed, **params) for seed in range(3)])
    assert [sampled.sound for sampled in found] == [True, False, True]
    clean = logits_of(3)
    assert [found[row].token_id for row in (0, 2)] == [
        rows_of(sampler, clean[row : row + 1], [asking(row, **params)])[0].token_id for row in (0, 2)
    ]


def test_an_end_outside_the_vocabulary_does_no_harm(sampler: Sampling) -> None:
    request = asking(temperature=0, min_tokens=2)
    request.params = replace(request.params, stop_token_ids=())
    assert rows_of(sampler, logits_of(1), [request])[0].sound
