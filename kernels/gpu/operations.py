"""The operations of a decoder on an NVIDIA GPU; those whose shape no kernel is written for go to the reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.draws import DrawTable
from kernels.gpu import activation, attention, linear, norm, penalties, rotary, sampling
from kernels.gpu.attention import GpuAttention
from kernels.gpu.launcher import Launcher
from kernels.gpu.layout import GROUP
from kernels.gpu.linear import QuantizedLinear
from kernels.gpu.specification import ModelShape
from kernels.gpu.tiles import DecodeTiles, StepTiles, Tiles
from kernels.invariant import InvariantLinear
from kernels.operations import Attention, Linear, Norms, ReferenceLinear, ReferenceOperations
from kernels.penalties import Texts
from kernels.quantize import Matrix, quantize_int8

_log = logging.getLogger(__name__)

_FITTED = {"attention": attention, "rotation": rotary, "norms": norm, "gates": activation}
"""Operations that take some shapes only, and the files that say which."""


class GpuOperations:
    """See `kernels.operations.Operations`. Matrix products of weights that are not quantised are cuBLAS's, by torch.

    Args:
        launcher: starts the kernels.
        processors: multiprocessors of the device.
        quantize: keep weights as int8, a scale an output, rounded to nearest, where `linear` may.
        deterministic: attention gives the same bits whatever else is in the batch; see `kernels.gpu.attention`.
        shape: the model's, by which it is decided, and told, what the reference does; None is one that fits.
    """

    packs = False

    def __init__(
        self, launcher: Launcher, processors: int, deterministic: bool = False, quantize: bool = False,
        shape: ModelShape | None = None,
    ) -> None:
        self._plain = _misfits(shape, quantize) if shape is not None else {}
        self.name = _described(self._plain)
        self.recordable = "attention" not in self._plain  # The reference's attention alone asks the host.
        if self._plain:
            _log.warning("slower than it could be: %s", self.name)
        self._reference = ReferenceOperations()
        self._quantize = quantize
        self._launcher = launcher
        self._processors = processors
        self._deterministic = deterministic

    @property
    def compilations(self) -> int:
        """See `kernels.operations.Operations.compilations`."""
        return self._launcher.compilations

    def matrix_dtype(self, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
        """See `kernels.operations.Operations.matrix_dtype`; quantised matrices stay so."""
        return stored if stored in (torch.int8, torch.uint8) else dtype

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        """See `kernels.operations.Operations.linear`; rows that are no multiple of 16 are not quantised."""
        if isinstance(weight, Tensor) and self._quantize and not exact and weight.shape[1] % GROUP == 0:
            weight = quantize_int8(weight)
        if isinstance(weight, Tensor):
            product: Linear = ReferenceLinear(weight, bias)
        else:
            product = QuantizedLinear(self._launcher, weight, bias, self._processors)
        return InvariantLinear(product) if self._deterministic else product

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """See `kernels.norm.rms_norm`."""
        if "norms" in self._plain:
            return self._reference.rms_norm(x, weight, epsilon)
        return norm.rms_norm(self._launcher, x, weight, epsilon)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """See `kernels.norm.add_rms_norm`; the results take the place of `x` and `residual`."""
        if "norms" in self._plain:
            return self._reference.add_rms_norm(x, residual, weight, epsilon)
        return norm.add_rms_norm(self._launcher, x, residual, weight, epsilon)

    def silu_multiply(self, gate_up: Tensor) -> Tensor:
        """See `kernels.activation.silu_multiply`."""
        if "gates" in self._plain:
            return self._reference.silu_multiply(gate_up)
        return activation.silu_multiply(self._launcher, gate_up)

    def rotate_and_cache(
        self, heads: Tensor, norms: Norms | None, epsilon: float, cosine: Tensor, sine: Tensor, positions: Tensor,
        slots: Tensor, key_cache: Tensor, value_cache: Tensor,
    ) -> Tensor:
        """See `kernels.operations.Operations.rotate_and_cache`."""
        if "rotation" in self._plain:
            return self._reference.rotate_and_cache(
                heads, norms, epsilon, cosine, sine, positions, slots, key_cache, value_cache
            )
        return rotary.rotate_and_cache(
            self._launcher, heads, norms, epsilon, cosine, sine, positions, slots, key_cache, value_cache
        )

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> Attention:
        """See `kernels.operations.Operations.attention`."""
        if "attention" in self._plain:
            return self._reference.attention(starts, counts, page_tables, page_size)
        return self._attention(StepTiles(starts, counts, page_tables.device), page_tables, page_size)

    def decode_attention(self, tiles: Tensor, page_tables: Tensor, page_size: int, longest: int) -> Attention:
        """See `kernels.operations.Operations.decode_attention`; what pads a batch is left unwritten in the result."""
        if "attention" in self._plain:
            return self._reference.decode_attention(tiles, page_tables, page_size, longest)
        return self._attention(DecodeTiles(Tiles(tiles, longest)), page_tables, page_size)

    def penalise(
        self, logits: Tensor, texts: Texts, presence: Tensor, frequency: Tensor, repetition: Tensor
    ) -> Tensor:
        """See `kernels.penalties.penalise_texts`."""
        return penalties.penalise_texts(self._launcher, logits, texts, presence, frequency, repetition)

    def draw(self, logits: Tensor, rows: Tensor, table: DrawTable, cutting: bool) -> tuple[Tensor, Tensor]:
        """See `kernels.draws.draw`."""
        return sampling.sample(self._launcher, logits, rows, table, cutting)

    def _attention(self, tiles: StepTiles | DecodeTiles, page_tables: Tensor, page_size: int) -> GpuAttention:
        return GpuAttention(
            self._launcher, tiles, page_tables, page_size, self._processors, self._deterministic
        )


def _misfits(shape: ModelShape, quantize: bool) -> dict[str, str]:
    """Operations that no kernel is written for at this shape, and why."""
    files = {**_FITTED, "quantised products": linear} if quantize else _FITTED
    reasons = {operation: file.misfit(shape) for operation, file in files.items()}
    return {operation: reason for operation, reason in reasons.items() if reason is not None}


def _described(plain: dict[str, str]) -> str:
    if not plain:
        return "GPU (Triton)"
    return f"GPU (Triton), but plain torch for {', '.join(f'{name} ({why})' for name, why in plain.items())}"
