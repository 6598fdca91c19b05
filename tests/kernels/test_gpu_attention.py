"""Paged attention on the GPU against the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
import pytest
import torch
from torch import Tensor

from kernels.gpu.attention import variants
from kernels.gpu.launcher import Launcher
from kernels.gpu.operations import GpuOperations
from kernels.gpu.specification import Constant, ModelShape, UnsupportedShape
from tests.kernels.far_apart import far_apart
from tests.kernels.paged import Paged

pytestmark = [
    pytest.mark.usefixtures("uninitialised_is_nan"), pytest.mark.filterwarnings("ignore:divide by zero.*log2"),
]

MANY, FEW = 1000, 1
"""Processors: so many that long decodes are split, so few that none is."""

MIXED = ((70, 1), (0, 37), (5, 3), (0, 1), (63, 1))
"""Decodes between prompt chunks, one of them the continuation of a cached prefix."""


class Recorder:
    """A launcher that also writes down what it launches."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self.launches: list[tuple[str, Mapping[str, Constant], tuple[int, int, int]]] = []

    @property
    def compilations(self) -> int:
        return self._launcher.compilations

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        self.launches.append((kernel, constants, grid))
        self._launcher.launch(kernel, constants, grid, arguments)


def attend(
    launcher: Launcher, step: Paged, window: int | None = None, soft_cap: float | None = None,
    processors: int = FEW, deterministic: bool = False,
) -> Tensor:
    operations = GpuOperations(launcher, processors, deterministic)
    attention = operations.attention(step.starts, step.counts, step.page_tables, step.page_size)
    return step.attend(attention, window, soft_cap)


def check(
    launcher: Launcher, step: Paged, window: int | None = None, soft_cap: float | None = None,
    processors: int = FEW, deterministic: bool = False, tolerance: float | None = None,
) -> None:
    out = attend(launcher, step, window, soft_cap, processors, deterministic)

    tolerance = tolerance or (1e-5 if step.query.dtype == torch.float32 else 5e-3)
    torch.testing.assert_close(out, step.expected(window, soft_cap), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_every_head_size(launcher: Launcher, device: torch.device, head_dim: int, dtype: torch.dtype) -> None:
    check(launcher, Paged.random(device, MIXED, head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("processors", [FEW, MANY])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (4, 1), (8, 1), (20, 1)])
def test_every_number_of_query_heads_to_a_key_head(
    launcher: Launcher, device: torch.device, heads: int, kv_heads: int, processors: int
) -> None:
    step = Paged.random(device, [(0, 50), (300, 1), (0, 2)], heads=heads, kv_heads=kv_heads, dtype=torch.float16)

    check(launcher, step, processors=processors)


@pytest.mark.parametrize("page_size", [1, 16, 32, 64, 128])
def test_every_page_size(launcher: Launcher, device: torch.device, page_size: int) -> None:
    """Blocks of keys span several pages, or lie within one."""
    check(launcher, Paged.random(device, [(130, 1), (65, 40)], page_size=page_size, dtype=torch.float16))


@pytest.mark.parametrize("total", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129])
def test_every_filling_of_the_last_page(launcher: Launcher, device: torch.device, total: int) -> None:
    check(launcher, Paged.random(device, [(total - 1, 1), (0, total)], dtype=torch.float16))


@pytest.mark.parametrize("window", [1, 5, 16, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_window_hides_what_is_further_back(
    launcher: Launcher, device: torch.device, window: int, dtype: torch.dtype
) -> None:
    check(launcher, Paged.random(device, [(200, 1), (90, 41), (3, 1)], dtype=dtype), window)


@pytest.mark.parametrize("window", [10, 70])
def test_pages_before_the_window_are_not_read(launcher: Launcher, device: torch.device, window: int) -> None:
    step = Paged.random(device, [(200, 1), (150, 20)])
    expected = step.expected(window)
    for row, start in enumerate(step.starts):
        freed = (start - window + 1) // step.page_size
        step.key_cache[step.page_tables[row, :freed]] = float("nan")
        step.value_cache[step.page_tables[row, :freed]] = float("nan")

    torch.testing.assert_close(attend(launcher, step, window), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 40])
def test_soft_cap_bounds_scores(launcher: Launcher, device: torch.device, window: int | None) -> None:
    step = Paged.random(device, MIXED)
    strong = replace(step, query=step.query * 30)

    check(launcher, strong, window, soft_cap=20.0)


def test_scores_too_large_to_be_exponents(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, [(70, 1), (0, 9)])

    # A score of thousands is rounded in its fourth decimal, and so are the weights' exponents.
    check(launcher, replace(step, query=step.query * 1000), tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("window", [None, 300])
def test_split_decodes_are_merged(
    launcher: Launcher, device: torch.device, window: int | None, dtype: torch.dtype
) -> None:
    """A short request beside a long one leaves some of its splits empty."""
    step = Paged.random(device, [(700, 1), (2, 1), (256, 1)], head_dim=80, dtype=dtype)
    recorder = Recorder(launcher)

    check(recorder, step, window, processors=MANY)

    assert [kernel for kernel, _, _ in recorder.launches] == ["paged_attention", "merge_splits"]


def test_more_splits_than_are_merged_at_once(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, [(4500, 1)], heads=2, kv_heads=1)
    recorder = Recorder(launcher)

    check(recorder, step, processors=MANY)

    assert recorder.launches[0][2] == (1, 1, 18)


def test_keys_are_split_only_where_processors_would_idle(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, [(600, 1)] * 4)
    recorder = Recorder(launcher)

    attend(recorder, step, processors=4)
    attend(recorder, step, processors=5)

    assert [grid for _, _, grid in recorder.launches] == [(4, 2, 1), (4, 2, 2), (4, 4, 1)]


def test_a_mixed_step_is_one_launch_for_chunks_and_one_for_decodes(
    launcher: Launcher, device: torch.device
) -> None:
    step = Paged.random(device, MIXED, dtype=torch.float16)
    recorder = Recorder(launcher)

    attend(recorder, step)

    assert [(constants["ROWS"], grid) for _, constants, grid in recorder.launches] == [
        (128, (2, 2, 1)), (16, (3, 2, 1)),
    ]


def test_requests_without_tokens_in_the_step_are_passed_over(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, [(20, 0), (0, 5), (3, 0), (31, 1)])

    torch.testing.assert_close(attend(launcher, step), step.part([1, 3]).expected(), atol=1e-5, rtol=1e-5)


def test_page_tables_of_int32(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, MIXED)

    check(launcher, replace(step, page_tables=step.page_tables.int()))


def test_caches_that_are_views(launcher: Launcher, device: torch.device) -> None:
    """Keys and values interleaved by page, and heads before slots."""
    step = Paged.random(device, MIXED)
    both = torch.stack((step.key_cache, step.value_cache), dim=1).transpose(2, 3).contiguous().transpose(2, 3)

    check(launcher, replace(step, key_cache=both[:, 0], value_cache=both[:, 1]))


@pytest.mark.parametrize("processors", [FEW, MANY])
def test_pages_past_32_bits(launcher: Launcher, device: torch.device, processors: int) -> None:
    step = Paged.random(device, [(500, 1), (0, 30)], page_size=512, dtype=torch.float16)
    key, value = (far_apart(tuple(step.key_cache.shape), torch.float16, device) for _ in range(2))
    key.copy_(step.key_cache)
    value.copy_(step.value_cache)

    out = attend(launcher, replace(step, key_cache=key, value_cache=value), processors=processors)

    torch.testing.assert_close(out, step.expected(), atol=5e-3, rtol=5e-3)


def test_heads_that_are_not_in_one_piece_are_refused(launcher: Launcher, device: torch.device) -> None:
    step = Paged.random(device, MIXED)
    scattered = step.key_cache.transpose(2, 3).contiguous().transpose(2, 3)

    with pytest.raises(UnsupportedShape, match="strides"):
        attend(launcher, replace(step, key_cache=scattered, value_cache=scattered))


@pytest.mark.parametrize("window", [None, 600])
def test_deterministic_decodes_do_not_depend_on_the_batch(
    launcher: Launcher, device: torch.device, window: int | None
) -> None:
    step = Paged.random(device, [(530, 1), (20, 1), (0, 40), (1700, 1)], heads=2, kv_heads=1)
    check(launcher, step, window, deterministic=True)

    together = attend(launcher, step, window, processors=MANY, deterministic=True)
    alone = attend(launcher, step.part([0]), window, processors=FEW, deterministic=True)

    assert torch.equal(together[:1], alone)


@pytest.mark.parametrize("window", [None, 70])
def test_deterministic_prompts_do_not_depend_on_how_they_are_cut(
    launcher: Launcher, device: torch.device, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A matrix unit treats all rows alike; the library behind the interpreter's product does not.
    monkeypatch.setattr(numpy, "matmul", lambda a, b, dtype: numpy.einsum("ij,jk->ik", a, b, dtype=dtype))
    whole = Paged.random(device, [(0, 150)])
    rest = Paged([(90, 60)], whole.query[90:], whole.key_cache, whole.value_cache, whole.page_tables)

    at_once = attend(launcher, whole, window, deterministic=True)

    assert torch.equal(at_once[90:], attend(launcher, rest, window, deterministic=True))


def test_decodes_of_a_graph_read_everything_from_tensors_that_stay(
    launcher: Launcher, device: torch.device
) -> None:
    """The grid is for four requests of any length; two are there, in other rows of the page tables."""
    step = Paged.random(device, [(40, 1), (300, 1)])
    tiles = torch.tensor([[2, 0, 40, 1], [0, 1, 300, 1], [0, 2, 0, 0], [0, 3, 0, 0]], dtype=torch.int32, device=device)
    tables = torch.stack((step.page_tables[1], torch.full_like(step.page_tables[0], -1), step.page_tables[0]))
    padded = replace(step, query=torch.cat((step.query, torch.full_like(step.query, float("nan")))))

    attention = GpuOperations(launcher, MANY).decode_attention(tiles, tables, step.page_size, longest=2000)
    out = padded.attend(attention)

    torch.testing.assert_close(out[:2], step.expected(), atol=1e-5, rtol=1e-5)
    assert out[2:].isnan().all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_step_asks_for_a_variant_that_was_not_listed(
    launcher: Launcher, device: torch.device, deterministic: bool
) -> None:
    shape = ModelShape(
        dtype="fp32", heads=4, kv_heads=2, head_dim=64, hidden_size=256, intermediate_size=512, page_size=16,
        windows=(False, True), deterministic=deterministic,
    )
    recorder = Recorder(launcher)

    for lengths in [((600, 1),), ((0, 33),), ((9, 1), (0, 2), (16, 16)), ((15, 1),) * 9]:
        step = Paged.random(device, lengths)
        for window, processors in [(None, FEW), (None, MANY), (20, MANY)]:
            attend(recorder, step, window, processors=processors, deterministic=deterministic)

    listed = [(variant.kernel, variant.constants) for variant in variants(shape)]
    assert all((kernel, constants) in listed for kernel, constants, _ in recorder.launches)
    assert all(variant in [(kernel, constants) for kernel, constants, _ in recorder.launches] for variant in listed
               if variant[1].get("WINDOWED") == 0)
