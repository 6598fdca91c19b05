"""A decoder's operations by the C++ kernels; what they do not take (float16, rows with gaps) goes to the reference."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import byref
from functools import partial

import torch
from torch import Tensor

from kernels.cpu.library import Library, Rotation, Step
from kernels.cpu.linear import OneDnnLinear, PackedLinear, fastest_linear
from kernels.operations import Attention, Linear, Norms, ReferenceOperations
from kernels.quantize import Matrix, QuantizedWeight

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def _takes(*tensors: Tensor) -> bool:
    """Whether the kernels take these as they lie: one dtype they know, no gaps."""
    dtype = tensors[0].dtype
    return dtype in _DTYPES and all(tensor.dtype is dtype and tensor.is_contiguous() for tensor in tensors)


def _takes_caches(keys: Tensor, values: Tensor, dtype: torch.dtype) -> bool:
    """Whether the caches' pages are dense, however far they are apart."""
    _, _, kv_heads, head_dim = keys.shape
    dense = (kv_heads * head_dim, head_dim, 1)
    return keys.dtype is values.dtype is dtype and keys.stride()[1:] == dense == values.stride()[1:]


class CpuAttention:
    """See `kernels.operations.Attention`. Keeps the step's description and working memory for every layer."""

    def __init__(
        self, library: Library, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> None:
        self._library = library
        self._arguments = starts, counts, page_tables, page_size
        self._reference: Attention | None = None
        self._starts, self._counts = array("q", starts), array("q", counts)
        self._page_tables = page_tables if page_tables.stride(1) == 1 else page_tables.contiguous()
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._step = Step(
            starts=self._starts.buffer_info()[0], counts=self._counts.buffer_info()[0],
            page_tables=self._page_tables.data_ptr(), requests=len(self._starts),
            table_step=self._page_tables.stride(0), page_size=page_size, threads=torch.get_num_threads(),
        )

    def attend(
        self, query: Tensor, key_cache: Tensor, value_cache: Tensor, scale: float, window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        dtype = query.dtype
        if not (_takes(query) and _takes_caches(key_cache, value_cache, dtype)):
            return self._by_reference().attend(query, key_cache, value_cache, scale, window, soft_cap)
        out, step = torch.empty_like(query), self._step
        step.query, step.out = query.data_ptr(), out.data_ptr()
        step.key_cache, step.value_cache = key_cache.data_ptr(), value_cache.data_ptr()
        step.key_page_step, step.value_page_step = key_cache.stride(0), value_cache.stride(0)
        _, step.heads, step.head_dim = query.shape
        step.kv_heads, step.dtype = key_cache.shape[2], _DTYPES[dtype]
        step.scale, step.window, step.soft_cap = scale, window or 0, soft_cap or 0.0
        self._make_room()
        self._library.attend(byref(step))
        return out

    def _make_room(self) -> None:
        size = self._library.attention_scratch(byref(self._step))
        if self._scratch.numel() < size:
            self._scratch = torch.empty(size, dtype=torch.uint8)
            self._step.scratch = self._scratch.data_ptr()

    def _by_reference(self) -> Attention:
        if self._reference is None:
            self._reference = ReferenceOperations().attention(*self._arguments)
        return self._reference


class CpuLinear:
    """See `kernels.operations.Linear`. Which product is fastest is chosen at the first input, by its dtype."""

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        self._choose = partial(fastest_linear, library, weight, bias)
        self._weight_dtype = weight.dtype
        self._chosen: PackedLinear | OneDnnLinear | None = None

    def _product(self, activations: torch.dtype) -> PackedLinear | OneDnnLinear:
        if self._chosen is None:
            self._chosen = self._choose(activations)
            del self._choose  # It holds the weight, which packing is to free.
        return self._chosen

    def __call__(self, x: Tensor) -> Tensor:
        return self._product(x.dtype)(x)

    def pack(self) -> None:
        self._product(self._weight_dtype).pack()

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed copy; 0 before `pack`."""
        return 0 if self._chosen is None else self._chosen.packed_bytes


class CpuOperations(ReferenceOperations):
    """See `kernels.operations.Operations`.

    Args:
        quantize: keep weights as int8, a scale an output, rounded to nearest, where `linear` may.
    """

    packs = True

    def __init__(self, library: Library, quantize: bool = False) -> None:
        super().__init__(library.describe() + (", weights in int8" if quantize else ""))
        self._library = library
        self._quantize = quantize

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        if not _takes(x, weight):
            return super().rms_norm(x, weight, epsilon)
        out = torch.empty_like(x)
        size = weight.numel()
        self._library.rms_norm(
            _DTYPES[x.dtype], torch.get_num_threads(), x.numel() // size, size, x.data_ptr(), weight.data_ptr(),
            out.data_ptr(), epsilon,
        )
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Overwrites both inputs and returns them."""
        if not _takes(x, residual, weight):
            return super().add_rms_norm(x, residual, weight, epsilon)
        size, pointer = weight.numel(), x.data_ptr()
        self._library.add_rms_norm(
            _DTYPES[x.dtype], torch.get_num_threads(), x.numel() // size, size, pointer, residual.data_ptr(),
            weight.data_ptr(), pointer, epsilon,
        )
        return x, residual

    def silu_multiply(self, gate_up: Tensor) -> Tensor:
        if not _takes(gate_up):
            return super().silu_multiply(gate_up)
        *rows, size = gate_up.shape
        out = torch.empty(*rows, size // 2, dtype=gate_up.dtype)
        self._library.silu_multiply(
            _DTYPES[gate_up.dtype], torch.get_num_threads(), gate_up.numel() // size, size // 2, gate_up.data_ptr(),
            out.data_ptr(),
        )
        return out

    def rotate_and_cache(
        self, heads: Tensor, norms: Norms | None, epsilon: float, cosine: Tensor, sine: Tensor, positions: Tensor,
        slots: Tensor, key_cache: Tensor, value_cache: Tensor,
    ) -> Tensor:
        tokens, all_heads, head_dim = heads.shape
        _, page_size, kv_heads, _ = key_cache.shape
        dtype, query_norm, key_norm = heads.dtype, None, None
        dense = heads.stride()[1:] == (head_dim, 1) and _takes_caches(key_cache, value_cache, dtype)
        if not (dense and cosine.dtype is dtype and _takes(cosine, sine, *(norms or ()))):
            return super().rotate_and_cache(
                heads, norms, epsilon, cosine, sine, positions, slots, key_cache, value_cache
            )
        if norms is not None:
            query_norm, key_norm = norms[0].data_ptr(), norms[1].data_ptr()
        query = torch.empty(tokens, all_heads - 2 * kv_heads, head_dim, dtype=dtype)
        self._library.rotate_and_cache(byref(Rotation(
            heads.data_ptr(), query_norm, key_norm, cosine.data_ptr(), sine.data_ptr(), positions.data_ptr(),
            slots.data_ptr(), query.data_ptr(), key_cache.data_ptr(), value_cache.data_ptr(), tokens, heads.stride(0),
            all_heads - 2 * kv_heads, kv_heads, head_dim, page_size, key_cache.stride(0), value_cache.stride(0),
            epsilon, _DTYPES[dtype], torch.get_num_threads(),
        )))
        return query

    def matrix_dtype(self, stored: torch.dtype, dtype: torch.dtype) -> torch.dtype:
        """bfloat16 stays so for float32 too: half the bytes to read, and widening it is exact.

        int4 becomes bfloat16, whose own error is far below that of four bits.
        """
        if stored is torch.uint8 and dtype in _DTYPES:
            return torch.bfloat16
        return stored if stored in (torch.bfloat16, torch.int8) and dtype in _DTYPES else dtype

    def linear(self, weight: Matrix, bias: Tensor | None, *, exact: bool = False) -> Linear:
        if isinstance(weight, QuantizedWeight):
            return PackedLinear(self._library, weight, bias)
        if not _takes(weight):
            return super().linear(weight, bias)
        if not self._quantize or exact:
            return CpuLinear(self._library, weight, bias)
        quantized = PackedLinear(self._library, weight, bias)
        quantized.pack(torch.int8)  # At once, not deferred: the first token is to come from the same weights.
        return quantized

    def attention(
        self, starts: Sequence[int], counts: Sequence[int], page_tables: Tensor, page_size: int
    ) -> Attention:
        return CpuAttention(self._library, starts, counts, page_tables, page_size)
