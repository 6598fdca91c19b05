"""The operations of a decoder on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.draws import DrawTable
from kernels.gpu import activation, norm, rotary, sampling
from kernels.gpu.attention import GpuAttention
from kernels.gpu.launcher import Launcher
from kernels.gpu.linear import QuantizedLinear
from kernels.gpu.tiles import DecodeTiles, StepTiles, Tiles
from kernels.invariant import InvariantLinear
from kernels.operations import Linear, Norms, ReferenceLinear
from kernels.quantize import quantize_int8


class GpuOperations:
    """See `kernels.operations.Operations`. Matrix products of weights that are not quantised are cuBLAS's, by torch.

    Args:
        launcher: starts the kernels.
        processors: multiprocessors of the device.
        quantize: keep weights as int8, a scale an output, rounded to nearest, where `linear` may.
        deterministic: attention gives the same bits whatever else is in the batch; see `kernels.gpu.attention`.
    """

    name = "GPU (Triton)"
    packs = False
    recordable = True

    def __init__(
        self, launcher: Launcher, processors: int, deterministic: bool = False, quantize: bool = False
    ) -> None:
        self._quantize = quantize
        self._launcher = launcher
        self._processors = processors
        self._deterministic = deterministic

    @property
    def compilations(self) -> int:
        """See `kernels.operations.Operations.compilations`."""
        return self._launcher.compilations

    def matrix_dtype(self, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
        """See `kernels.operations.Operations.matrix_dtype`."""
        return dtype

    def linear(self, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> Linear:
        """See `kernels.operations.Operations.linear`."""
        linear: Linear = ReferenceLinear(weight, bias)
        if self._quantize and not exact:
            linear = QuantizedLinear(self._launcher, quantize_int8(weight), bias, weight.dtype, self._processors)
        return InvariantLinear(linear) if self._deterministic else linear

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See `kernels.norm.rms_norm`."""
        return norm.rms_norm(self._launcher, x, weight, epsilon)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """See `kernels.norm.add_rms_norm`; the results take the place of `x` and `residual`."""
        return norm.add_rms_norm(self._launcher, x, residual, weight, epsilon)

    def silu_multiply(self, gate_up: Tensor) -> Tensor:
        """See `kernels.activation.silu_multiply`."""
        return activation.silu_multiply(self._launcher, gate_up)

    def rotate_and_cache(
        self, heads: Tensor, norms: Norms | None, epsilon: float, cosine: Tensor, sine: Tensor, positions: Tensor,
        slots: Tensor, key_cache: Tensor, value_cache: Tensor,
    ) -> Tensor:
        """See `kernels.operations.Operations.rotate_and_cache`."""
        return rotary.rotate_and_cache(
            self._launcher, heads, norms, epsilon, cosine, sine, positions, slots, key_cache, value_cache
        )

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> GpuAttention:
        """See `kernels.operations.Operations.attention`."""
        return self._attention(StepTiles(starts, counts, page_tables.device), page_tables, page_size)

    def decode_attention(self, tiles: Tensor, page_tables: Tensor, page_size: int, longest: int) -> GpuAttention:
        """See `kernels.operations.Operations.decode_attention`; what pads a batch is left unwritten in the result."""
        return self._attention(DecodeTiles(Tiles(tiles, longest)), page_tables, page_size)

    def draw(self, logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> tuple[Tensor, Tensor]:
        """See `kernels.draws.draw`."""
        return sampling.sample(self._launcher, logits, rows, table, None, cutting)

    def _attention(self, tiles: StepTiles | DecodeTiles, page_tables: Tensor, page_size: int) -> GpuAttention:
        return GpuAttention(
            self._launcher, tiles, page_tables, page_size, self._processors, self._deterministic
        )
