"""How fast the C++ kernels are on this machine, beside its measured peaks and the plain-torch references."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
import typer
from rich.console import Console
from rich.table import Table

from kernels.cpu.library import Unavailable, load
from kernels.cpu.operations import CpuOperations
from kernels.operations import Operations, ReferenceOperations
from kernels.rotary import rotary_tables

FAR_BEYOND_CACHES = 256 << 20
"""Bytes gone through before one is met again, so that memory is measured and not a cache."""

Call = Callable[[], object]
Shape = tuple[int, int, int]
"""Heads, key heads, head size."""

SMALL, LARGE = (9, 3, 64), (32, 8, 128)
"""The shapes of a Llama of 135 million parameters and of 8 billion."""


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        amount: what one call does or moves.
        unit: of the amount, a second, in 10^9.
        peak: the machine's, in that unit.
        make: the call, by some implementation of the operations.
    """

    name: str
    amount: float
    unit: str
    peak: float
    make: Callable[[Operations], Call]


@dataclass(frozen=True)
class Peaks:
    """What the machine reaches, in 10^9 a second."""

    flops: float
    bytes: float


def seconds(call: Call, least: float = 0.25) -> float:
    """The quickest of many calls: other programs only ever slow one down."""
    call()
    best, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def peaks() -> Peaks:
    """What torch's own matrix product and sum reach, in 10^9 a second."""
    x, memory = torch.randn(2048, 2048), torch.ones(FAR_BEYOND_CACHES // 4)
    return Peaks(2 * 2048**3 / seconds(lambda: x @ x, 1) / 1e9, FAR_BEYOND_CACHES / seconds(memory.sum, 1) / 1e9)


def attention(
    operations: Operations, starts: list[int], counts: list[int], shape: Shape, dtype: torch.dtype
) -> Call:
    """Attention of a step, in another layer's cache at each call."""
    heads, kv_heads, head_dim = shape
    page_size = 16
    needed = [-(-(start + count) // page_size) for start, count in zip(starts, counts, strict=True)]
    tables = torch.zeros(len(starts), max(needed), dtype=torch.int64)
    for row, pages in enumerate(torch.randperm(sum(needed)).split(needed)):
        tables[row, : len(pages)] = pages
    size = torch.Size((2, sum(needed), page_size, kv_heads, head_dim))
    layers = max(1, FAR_BEYOND_CACHES // (size.numel() * dtype.itemsize))
    caches = cycle([torch.randn(size).to(dtype) for _ in range(layers)])
    query = torch.randn(sum(counts), heads, head_dim).to(dtype)
    batch = operations.attention(starts, counts, tables, page_size)

    def attend() -> object:
        keys, values = next(caches)
        return batch.attend(query, keys, values, head_dim**-0.5)

    return attend


def attention_cases(peak: Peaks, dtype: torch.dtype) -> Iterator[Case]:
    """Decode against memory, prefill against arithmetic."""
    yield decode_case(peak, dtype, SMALL, 24, 300)
    yield decode_case(peak, dtype, LARGE, 1, 8192)
    for start in (0, 2048):
        yield prefill_case(peak, dtype, SMALL, start, 512)
        yield prefill_case(peak, dtype, LARGE, start, 512)


def decode_case(peak: Peaks, dtype: torch.dtype, shape: Shape, requests: int, context: int) -> Case:
    """One token for each of several requests."""
    heads, kv_heads, head_dim = shape
    size = requests * context * 2 * kv_heads * head_dim * dtype.itemsize
    name = f"decode, {requests} x {context} tokens, {heads}/{kv_heads} heads of {head_dim}"
    return Case(name, size, "GB/s", peak.bytes, lambda operations: attention(
        operations, [context - 1] * requests, [1] * requests, shape, dtype))


def prefill_case(peak: Peaks, dtype: torch.dtype, shape: Shape, start: int, tokens: int) -> Case:
    """A chunk of one prompt."""
    heads, kv_heads, head_dim = shape
    pairs = tokens * start + tokens * (tokens + 1) // 2
    name = f"prefill, {tokens} tokens after {start}, {heads}/{kv_heads} heads of {head_dim}"
    return Case(name, 4 * pairs * heads * head_dim, "GFLOP/s", peak.flops, lambda operations: attention(
        operations, [start], [tokens], shape, dtype))


def row_cases(peak: Peaks, dtype: torch.dtype) -> Iterator[Case]:
    """Operations on rows of the small shape; the rows are in the caches, as they are in a decoder."""
    for tokens in (24, 512):
        yield from norm_cases(peak, dtype, tokens)
        yield silu_case(peak, dtype, tokens)
        yield rotary_case(peak, dtype, tokens)


def norm_cases(peak: Peaks, dtype: torch.dtype, tokens: int) -> Iterator[Case]:
    """Both norms; amounts count what is read and written."""
    x, weight = torch.randn(tokens, 576).to(dtype), torch.ones(576).to(dtype)
    residual = torch.zeros_like(x)
    yield Case(f"norm, {tokens} tokens", 2 * x.nbytes, "GB/s", peak.bytes, lambda operations: lambda: (
        operations.rms_norm(x, weight, 1e-5)))
    yield Case(f"add and norm, {tokens} tokens", 4 * x.nbytes, "GB/s", peak.bytes, lambda operations: lambda: (
        operations.add_rms_norm(x, residual, weight, 1e-5)))


def silu_case(peak: Peaks, dtype: torch.dtype, tokens: int) -> Case:
    """The gate of the feed-forward block."""
    gate_up = torch.randn(tokens, 3072).to(dtype)
    return Case(f"silu, {tokens} tokens", 1.5 * gate_up.nbytes, "GB/s", peak.bytes, lambda operations: lambda: (
        operations.silu_multiply(gate_up)))


def rotary_case(peak: Peaks, dtype: torch.dtype, tokens: int) -> Case:
    """Rotation of queries and keys, and the way into the cache."""
    heads = torch.randn(tokens, 15, 64).to(dtype)
    cosine, sine = rotary_tables(torch.rand(32), 1024, 1.0, dtype)
    cache = torch.zeros(2, 64, 16, 3, 64, dtype=dtype)
    places = torch.randperm(1024)[:tokens]
    return Case(f"rotary and cache, {tokens} tokens", 2 * heads.nbytes, "GB/s", peak.bytes, lambda operations: lambda: (
        operations.rotate_and_cache(heads, None, 0.0, cosine, sine, places, places, cache[0], cache[1])))


def overhead(operations: Operations) -> float:
    """Seconds of a call that has next to nothing to do."""
    x, weight = torch.ones(1, 8), torch.ones(8)
    return seconds(lambda: operations.rms_norm(x, weight, 1e-5))


def row(case: Case, operations: Operations, reference: Operations) -> list[str]:
    """A row of the table."""
    own, plain = seconds(case.make(operations)), seconds(case.make(reference))
    rate = case.amount / own / 1e9
    return [
        case.name, f"{own * 1e6:.0f}", f"{rate:.1f} {case.unit}", f"{rate / case.peak:.0%}", f"{plain * 1e6:.0f}",
        f"{plain / own:.1f}",
    ]


def main(dtype: str = "bfloat16", variant: str = "") -> None:
    """Print a table: microseconds, rate, share of the peak, microseconds of plain torch, times faster."""
    library = load()
    if isinstance(library, Unavailable):
        raise typer.BadParameter(library.reason)
    if variant:
        library.use(variant)
    operations, reference, peak = CpuOperations(library), ReferenceOperations(), peaks()
    drawn = Table("", "us", "rate", "of peak", "torch, us", "ratio", title=f"{dtype}, {library.describe()}")
    with torch.inference_mode():
        kind: torch.dtype = getattr(torch, dtype)
        for case in [*attention_cases(peak, kind), *row_cases(peak, kind)]:
            drawn.add_row(*row(case, operations, reference))
        drawn.caption = (
            f"peaks by torch: {peak.flops:.0f} GFLOP/s in float32, {peak.bytes:.1f} GB/s; "
            f"{torch.get_num_threads()} threads; a call with nothing to do: {overhead(operations) * 1e6:.1f} us"
        )
    Console(width=120).print(drawn)


if __name__ == "__main__":
    typer.run(main)
