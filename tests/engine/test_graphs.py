"""Decodes that run from a recording give what they give without: the same bits, whoever comes, goes or fills up.

What a CPU cannot do is record. `Frozen` stands for it: like a graph it writes its results to the same memory each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine import graphs as graphs_module
from engine import rows as rows_module
from engine.boot import Booted, boot_core
from engine.config import EngineConfig
from engine.core import Samples
from engine.graphs import CudaRecorder, DecodeGraphs, Recorder, Replay, Rerun
from engine.request import FinishReason
from engine.sampler import Drawn
from engine.scheduler import Step
from image.demo_tasks import counting
from kernels.gpu.operations import GpuOperations
from kernels.gpu.specification import Constant
from kernels.operations import Linear, ReferenceOperations
from kernels.quantize import Matrix
from tests.engine.busy import WISHES, ask, busy_day

CPU = torch.device("cpu")
PAGE_SIZE = 4
VOCABULARY = 11


# The buckets.


@dataclass
class Frozen:
    """Records by running again, into the memory of the first run.

    Attributes:
        replays: the batch size of each replay so far.
        fails: what a capture raises.
    """

    replays: list[int] = field(default_factory=list)
    fails: Exception | None = None
    bytes_used: int = 0

    def capture(self, function: Callable[[], Drawn]) -> Replay:
        if self.fails is not None:
            raise self.fails
        self.bytes_used += 3 << 20
        kept = function()

        def replay() -> Drawn:
            drawn = function()
            self.replays.append(len(drawn.tokens))
            kept.logits.copy_(drawn.logits)
            kept.tokens.copy_(drawn.tokens)
            kept.sound.copy_(drawn.sound)
            return kept

        return replay


@dataclass
class Decoded:
    """A decode that does nothing but remember what it was asked."""

    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def __call__(self, rows: Tensor, positions: Tensor) -> Drawn:
        self.asked.append((rows.tolist(), positions.tolist()))
        return Drawn(torch.zeros(len(rows), VOCABULARY), rows + 1000, torch.ones(len(rows), dtype=torch.bool))


def make_graphs(*sizes: int, recorder: Recorder | None = None) -> tuple[DecodeGraphs, Decoded]:
    decode = Decoded()
    return DecodeGraphs(sizes, recorder or Rerun(), decode, 99, CPU), decode


def recorded(*sizes: int) -> tuple[DecodeGraphs, Decoded]:
    graphs, decode = make_graphs(*sizes)
    while graphs.capture(idle=True):
        pass
    return graphs, decode


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_the_smallest_bucket_that_holds_the_batch_runs_filled_up_with_the_padding_row(batch: int, size: int) -> None:
    graphs, decode = recorded(1, 2, 4, 8)
    result = graphs.run(list(range(batch)), list(range(10, 10 + batch)))
    assert result is not None
    rows, positions, drawn = result
    assert decode.asked[-1] == (
        [*range(batch), *[99] * (size - batch)], [*range(10, 10 + batch), *[0] * (size - batch)]
    )
    assert rows.tolist() == list(range(batch))
    assert positions.tolist() == list(range(10, 10 + batch))
    assert drawn.tokens.tolist() == [row + 1000 for row in range(batch)]
    assert len(drawn.logits) == len(drawn.sound) == batch


def test_a_batch_that_is_too_large_runs_without() -> None:
    graphs, decode = recorded(1, 2)
    assert graphs.run([0, 1, 2], [5, 5, 5]) is None
    assert not decode.asked


def test_a_bucket_runs_without_until_it_is_recorded() -> None:
    graphs, _ = make_graphs(1, 2, 4)
    assert graphs.run([0, 1], [5, 5]) is None
    assert graphs.capture(idle=False)
    assert graphs.recorded == (2,)
    assert graphs.run([0, 1], [5, 5]) is not None
    assert graphs.run([0], [5]) is None


def test_what_fewer_requests_leave_over_is_padding_again() -> None:
    graphs, decode = recorded(4)
    graphs.run([1, 2, 3, 4], [5, 6, 7, 8])
    graphs.run([7], [9])
    assert decode.asked[-1] == ([7, 99, 99, 99], [9, 0, 0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_inputs_start_where_kernels_may_read_them(size: int) -> None:
    addresses: list[int] = []

    def decode(rows: Tensor, positions: Tensor) -> Drawn:
        addresses.append(positions.data_ptr() - rows.data_ptr())
        return Decoded()(rows, positions)

    graphs = DecodeGraphs([size], Rerun(), decode, 99, CPU)
    graphs.capture(idle=True)
    graphs.run([0], [1])
    assert addresses[0] % 16 == 0


def test_the_most_used_is_recorded_first_and_while_others_wait_only_the_used() -> None:
    graphs, _ = make_graphs(1, 2, 4, 8)
    for batch in (3, 4, 4, 1):
        graphs.run([0] * batch, [0] * batch)
    order = []
    for idle in (False, False, False, True, True, True):
        before = set(graphs.recorded)
        done = graphs.capture(idle)
        order.append((done, *(set(graphs.recorded) - before)))
    assert order[:3] == [(True, 4), (True, 1), (False,)]
    assert sorted(order[3:5]) == [(True, 2), (True, 8)]
    assert order[5] == (False,)


def test_what_a_recording_costs_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    graphs, _ = make_graphs(2, recorder=Frozen())
    with caplog.at_level(logging.INFO, "pilotlight.graphs"):
        graphs.capture(idle=True)
    assert "batch of 2" in caplog.text
    assert "3.0 MiB" in caplog.text


def test_a_recording_that_fails_is_logged_and_all_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Frozen()
    graphs, _ = make_graphs(1, 2, 4, recorder=recorder)
    graphs.capture(idle=True)
    recorder.fails = RuntimeError("operation not permitted when stream is capturing")
    assert graphs.capture(idle=True)
    assert "not permitted" in caplog.text
    assert not graphs.capture(idle=True), "nothing is tried again"
    assert len(graphs.recorded) == 1
    size = graphs.recorded[0]
    assert graphs.run([0] * size, [0] * size) is not None
    assert graphs.run([0] * (size + 1), [0] * (size + 1)) is None


# The engine on buckets.


class ByRow:
    """A projection of one token after the other, so that the batch's size decides nothing."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([torch.nn.functional.linear(row, self._weight, self._bias) for row in x.split(1)])

    def pack(self) -> None:
        """Nothing."""


class ByRowOperations(ReferenceOperations):
    """The reference, whose results have the same bits whatever fills up the batch."""

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        assert isinstance(weight, Tensor)
        return ByRow(weight, bias)


def make_core(
    sizes: Sequence[int], recorder: Recorder, *, pages: int = 200, overlap: bool = False, **settings: Any
) -> Booted:
    """A core of the demo model, all its buckets recorded."""
    one = boot_core(EngineConfig("demo", device="cpu", dtype="float32", page_size=PAGE_SIZE, kv_memory=1 << 20))
    config = EngineConfig(
        "demo", device="cpu", dtype="float32", page_size=PAGE_SIZE, kv_memory=pages * one.plan.page_bytes,
        graph_sizes=tuple(sizes), overlap=overlap, **{"max_running": 8, **settings},
    )
    booted = boot_core(config, operations=ByRowOperations())
    booted.core._runner._graphs._recorder = recorder  # type: ignore[attr-defined]
    booted.core.finish_deferred()
    return booted


@pytest.mark.parametrize("overlap", [False, True], ids=["in turn", "overlapped"])
@pytest.mark.parametrize("pages", [200, 20], ids=["room for all", "preempted"])
def test_every_bit_is_as_without_graphs(pages: int, overlap: bool) -> None:
    recorder = Frozen()
    booted = make_core((1, 2, 4, 8), recorder, pages=pages, overlap=overlap)
    told = busy_day(booted)
    assert told == busy_day(make_core((), Rerun(), pages=pages, overlap=overlap))
    assert set(recorder.replays) == {1, 2, 4, 8}, "every bucket had its turn"
    assert (booted.core.scheduler.preemptions > 0) == (pages < 200)
    ends = {name: lines[-1][2] for name, lines in told.items()}
    assert {name for name, end in ends.items() if end is FinishReason.ABORTED} == {"3", "7"}
    assert len(ends) == 16


@pytest.mark.parametrize("batch", range(1, 7))
def test_at_every_edge_of_a_bucket_each_counts_for_itself(batch: int) -> None:
    recorder = Frozen()
    booted = make_core((1, 3, 5), recorder, overlap=True)
    expected = {str(i): counting(10 * i, 10 * i + 4 + i).answer for i in range(batch)}
    for i in range(batch):
        ask(booted, 10 * i, 10 * i + 4 + i, str(i))
    texts = dict.fromkeys(expected, "")
    while booted.core.has_work:
        for event in booted.core.step():
            texts[event.request_id] += event.text
    assert texts == expected
    assert recorder.replays[0] == {1: 1, 2: 3, 3: 3}.get(batch, 5)
    assert recorder.replays == sorted(recorder.replays, reverse=True)


def pages_written(booted: Booted, poisoned: Tensor) -> set[int]:
    """Pages of the cache in which anything changed."""
    storage = booted.core._runner._cache._storage  # type: ignore[attr-defined]
    same = ((storage == poisoned) | (storage.isnan() & poisoned.isnan())).all(-1).all(-1).all(-1)
    return set((~same.all(0).all(0)).nonzero().squeeze(-1).tolist())


def test_what_fills_up_a_batch_touches_no_page_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Frozen()
    booted = make_core((4,), recorder, overlap=True)
    core, runner = booted.core, booted.core._runner
    held: set[int] = set()

    def launch(step: Step, inner: Callable[[Step], Samples] = runner.launch) -> Samples:
        held.update(page for request in step.tokens for page in request.pages)
        return inner(step)

    monkeypatch.setattr(runner, "launch", launch)
    runner._cache._storage.fill_(float("nan"))  # type: ignore[attr-defined]
    poisoned = runner._cache._storage.clone()  # type: ignore[attr-defined]
    for name, (first, last) in {"a": (3, 9), "b": (40, 52), "c": (70, 75)}.items():
        ask(booted, first, last, name)
    texts = dict.fromkeys("abc", "")
    while core.has_work:
        for event in core.step():
            texts[event.request_id] += event.text
    assert texts == {"a": counting(3, 9).answer, "b": counting(40, 52).answer, "c": counting(70, 75).answer}
    assert set(recorder.replays) == {4}
    written = pages_written(booted, poisoned)
    padding_page = booted.plan.pages
    assert padding_page in written
    assert written <= held | {padding_page}
    padding = runner._cache._storage[:, :, padding_page]  # type: ignore[attr-defined]
    assert bool(padding[:, :, 1:].isnan().all()), "padding has one token, at its page's start"


def test_a_chunk_of_one_token_is_no_decode() -> None:
    recorder = Frozen()
    booted = make_core((1,), recorder, token_budget=1, max_running=1)
    request = ask(booted, 5, 9, "chunks")
    text = ""
    while booted.core.has_work:
        text += "".join(event.text for event in booted.core.step())
    assert text == counting(5, 9).answer
    # The prompt's last token is one that is computed alone and sampled after: a decode like any other.
    assert len(recorder.replays) == request.output_length


def test_a_steady_decode_sends_its_rows_and_positions_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    booted = make_core((4,), Rerun(), overlap=True)
    for number, wish in enumerate(WISHES[:3]):
        ask(booted, 10, 30, str(number), ignore_eos=True, **wish)
    sent: list[Tensor] = []

    def staged(numbers: Any, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
        sent.append(torch.tensor(numbers, dtype=dtype))
        return sent[-1]

    booted.core.step()
    booted.core.step()
    monkeypatch.setattr(graphs_module, "staged", staged)
    monkeypatch.setattr(rows_module, "staged", staged)
    steps = []
    for _ in range(6 * PAGE_SIZE):
        sent.clear()
        booted.core.step()
        steps.append([tensor.numel() for tensor in sent])
    assert all(sizes[-1] == 2 * 4 for sizes in steps), "rows and positions of a bucket of four"
    assert all(len(sizes) <= 2 for sizes in steps), "and pages that begin"
    assert steps.count([2 * 4]) >= len(steps) / 4, "which each request does every fourth step"


def test_nothing_is_recorded_before_somebody_has_a_first_token_nor_all_at_once_while_somebody_waits() -> None:
    booted = make_core((1, 2, 4), Rerun())
    runner = booted.core._runner
    runner._graphs._recorded.clear()  # type: ignore[attr-defined]
    booted.core.may_defer = booted.core.deferred_done = False
    ask(booted, 3, 20, "alone")
    done = []
    while booted.core.has_work:
        done.append(booted.core.defer())
        booted.core.step()
    assert not any(done[:2]), "a prompt, and a first decode that nobody had counted"
    assert sum(done) == 1
    assert runner._graphs.recorded == (1,)  # type: ignore[attr-defined]
    while booted.core.defer():
        pass
    assert runner._graphs.recorded == (1, 2, 4)  # type: ignore[attr-defined]


# What a device can record.


@dataclass
class Kernels:
    """Launches nothing, and notes which kernels would have to be there: before a capture, and in it."""

    compilations = 0
    capturing: bool = False
    loaded: set[tuple[Any, ...]] = field(default_factory=set)
    captured: set[tuple[Any, ...]] = field(default_factory=set)

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        types = [argument.dtype if isinstance(argument, Tensor) else None for argument in arguments]
        (self.captured if self.capturing else self.loaded).add((kernel, *sorted(constants.items()), *types))

    @contextmanager
    def capture(self, *_: object, **__: object) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """A device that is not there: its streams do nothing, and its graphs capture what is launched."""
    kernels = Kernels()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    stand_ins = {
        "Stream": lambda device: stream, "current_stream": lambda: stream, "stream": nullcontext,
        "graph_pool_handle": lambda: None, "CUDAGraph": SimpleNamespace, "graph": kernels.capture,
        "mem_get_info": lambda device: (0, 0),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return kernels


@pytest.mark.parametrize("size", [1, 3, 100], ids="batch of {}".format)
@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"quantize": True}], ids=str)
def test_whatever_a_capture_launches_was_launched_before_it(
    kernels: Kernels, size: int, options: dict[str, Any]
) -> None:
    """A module that is loaded while a graph is captured is an error on a device."""
    config = EngineConfig(
        "demo", device="cpu", dtype="float16", kv_memory=4 << 20, graph_sizes=(size,), max_running=100
    )
    booted = boot_core(config, operations=GpuOperations(kernels, 132, **options))
    booted.core._runner._graphs._recorder = CudaRecorder(CPU)  # type: ignore[attr-defined]
    booted.core.finish_deferred()
    assert booted.core._runner._graphs.recorded == (size,)  # type: ignore[attr-defined]
    assert {kernel for kernel, *_ in kernels.captured} >= {"paged_attention", "rotate_and_cache", "choose_likely"}
    assert kernels.captured <= kernels.loaded
