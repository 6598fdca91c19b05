"""What the user chose: frozen, validated once, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from engine.errors import InvalidConfig

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8"]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvalidConfig(message)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's settings. What follows from them on a device is the `Plan`.

    Attributes:
        model: `demo`, a folder, or a hub id.
        dtype: of weights, activations and KV cache; `auto` takes what the device computes fast.
        max_model_len: context in tokens, prompt and output; None takes the model's own.
        kv_memory: bytes for the KV cache; None takes what `memory_utilization` leaves.
        memory_utilization: share of the memory this process may use that the engine may fill.
        page_size: tokens a page, a power of two.
        max_running: requests that compute at once.
        token_budget: tokens computed in one step, prompt chunks and decodes together; None takes what suits the device.
        max_waiting: requests that may queue before new ones are refused.
        max_waiting_tokens: prompt tokens that may queue; None takes several times what the KV cache holds.
        skip_tokenizer_init: token ids in and out, no text; the folder then needs no tokenizer.
        overlap: whether each step is prepared while the one before it computes; None does so where the device computes
            beside the host. The answers are the same.
        threads: CPU threads for the arithmetic; None takes what affinity and the cgroup allow.
        quantize: `int8` rounds the layers' weights to a scale an output: fewer bytes to read, quicker for few requests.
        kernels: folder of compiled GPU kernels, made by `python -m kernels.precompile`; None is the user's cache. Where
            it holds none for this device, Triton compiles in service if it can, counted, and else plain torch serves.
        graph_sizes: batch sizes whose decodes are recorded and replayed, rising, a smaller batch being filled up; None
            takes what suits the device, () records nothing.
        deterministic: on a GPU, a request's logits do not depend on what else is in the batch; `docs/engine.md` says
            how far, and what it costs.
        revision: the hub's commit, tag or branch; None takes the newest.
    """

    model: str = "demo"
    device: Device = "auto"
    dtype: DType = "auto"
    max_model_len: int | None = None
    kv_memory: int | None = None
    memory_utilization: float = 0.9
    page_size: int = 16
    max_running: int = 256
    token_budget: int | None = None
    max_waiting: int = 1024
    max_waiting_tokens: int | None = None
    prefix_caching: bool = True
    skip_tokenizer_init: bool = False
    overlap: bool | None = None
    threads: int | None = None
    quantize: Quantization = "none"
    kernels: str | None = None
    graph_sizes: tuple[int, ...] | None = None
    deterministic: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        _require(bool(self.model), "model must not be empty")
        _require(self.device in get_args(Device), f"device must be one of {', '.join(get_args(Device))}")
        _require(self.dtype in get_args(DType), f"dtype must be one of {', '.join(get_args(DType))}")
        _require(self.quantize in get_args(Quantization), "quantize must be none or int8")
        _require(self.max_model_len is None or self.max_model_len >= 1, "max_model_len must be 1 or more")
        _require(self.kv_memory is None or self.kv_memory > 0, "kv_memory must be above 0 bytes")
        _require(0 < self.memory_utilization <= 1, "memory_utilization must be above 0 and at most 1")
        power_of_two = self.page_size >= 1 and self.page_size & (self.page_size - 1) == 0
        _require(power_of_two, "page_size must be a power of two")
        _require(self.max_running >= 1, "max_running must be 1 or more")
        enough = self.token_budget is None or self.token_budget >= self.max_running
        _require(enough, "token_budget must be at least max_running")
        _require(self.max_waiting >= 1, "max_waiting must be 1 or more")
        some = self.max_waiting_tokens is None or self.max_waiting_tokens >= 1
        _require(some, "max_waiting_tokens must be 1 or more")
        _require(self.threads is None or 1 <= self.threads <= 1024, "threads must be from 1 to 1024")
        sizes = self.graph_sizes or ()
        rising = all(first < second for first, second in pairwise((0, *sizes)))
        _require(rising, "graph_sizes must be above 0 and rise")
