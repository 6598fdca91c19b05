"""What follows from the configuration on this device: how many pages, what context. Frozen, printed at boot."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import EngineConfig
from engine.errors import InsufficientMemory, InvalidConfig
from engine.models.architecture import Architecture

DEFAULT_CPU_KV_BYTES = 4 << 30
"""A CPU's memory is shared with other programs, so without `kv_memory` the cache stops here (vLLM's choice too)."""


_TOKEN_BUDGETS = {"cpu": 512, "cuda": 8192}
"""A full step is how long a long prompt may hold up everybody's next token: large enough to keep the device's
arithmetic busy, which a CPU's is from a few hundred tokens on, and no larger."""


_LARGEST_GRAPH = 256
"""Larger batches keep the device busy for longer than the host takes to start their kernels one by one."""

_GRAPH_OVERHEAD = 8 << 20
"""Bytes of a recording beside what it computes in: its kernels' descriptions and arguments."""

_LINES_DRAWN_AT_ONCE = 64

_CACHES_WAITING = 8
"""Prompts that may wait, in fillings of the KV cache: who would wait for eight full houses is better told so."""

_SHORT_PROMPT = 64
"""Tokens. As many requests as may wait may at least have prompts of this length, however small the cache."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The engine's derived figures.

    Attributes:
        kernels: which implementation of the operations computes.
        overlap: steps are prepared while the one before computes.
        max_model_len: tokens of prompt and output that one request may have.
        page_bytes: bytes of one page over all layers.
        graph_sizes: batch sizes whose decodes are recorded after the first token, rising; with any, the cache has one
            page more than `pages`, which is nobody's.
        warnings: what the user asked for and did not get, one line each.
        max_waiting_tokens: prompt tokens that may queue; None is no bound.
    """

    device: str
    dtype: str
    kernels: str
    overlap: bool
    threads: int
    weight_bytes: int
    packed_bytes: int
    page_size: int
    pages: int
    page_bytes: int
    max_model_len: int
    max_running: int
    token_budget: int
    max_waiting: int
    prefix_caching: bool
    graph_sizes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    max_waiting_tokens: int | None = None

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values fit at once."""
        return self.pages * self.page_size

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        packed = f", and {_megabytes(self.packed_bytes)} once they are packed" if self.packed_bytes else ""
        pages = f"{self.pages} pages of {self.page_size} tokens, {self.kv_tokens} tokens in all"
        waiting = f"{self.max_waiting} may wait"
        if self.max_waiting_tokens is not None:
            waiting += f", with prompts of {self.max_waiting_tokens} tokens in all"
        return [
            f"device     {self.device}, {self.dtype}, {self.threads} threads",
            f"kernels    {self.kernels}",
            f"weights    {_megabytes(self.weight_bytes)}{packed}",
            f"KV cache   {_megabytes(self.pages * self.page_bytes)}: {pages}",
            f"context    {self.max_model_len} tokens a request",
            f"step       up to {self.token_budget} tokens of {self.max_running} requests; {waiting}",
            *([f"graphs     decodes of {', '.join(map(str, self.graph_sizes))} requests"] if self.graph_sizes else []),
            *(f"WARNING    {warning}" for warning in self.warnings),
        ]


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def make_plan(
    config: EngineConfig, shape: Architecture, *, device: str, dtype: str, value_bytes: int, kernels: str,
    threads: int, weight_bytes: int, packed_bytes: int, free_memory: int, recordable: bool = False,
) -> Plan:
    """Divide the memory.

    Args:
        value_bytes: bytes of one number in the cache.
        packed_bytes: what the weights take once more when they are laid out for speed.
        free_memory: bytes that are left beside both.
        recordable: decodes can be recorded in graphs.

    Raises:
        InsufficientMemory: not one page fits.
        InvalidConfig: `max_model_len` is longer than the model was made for.
    """
    if config.max_model_len is not None and config.max_model_len > shape.context:
        raise InvalidConfig(f"max_model_len {config.max_model_len} is more than the model's context of {shape.context}")
    wanted = config.max_model_len or shape.context
    budget = config.token_budget or max(_TOKEN_BUDGETS[device], config.max_running)
    page_bytes = shape.cache_values_per_token * value_bytes * config.page_size
    longest = -(-wanted // config.page_size)
    sizes = _graph_sizes(config, recordable)
    graphs = graph_bytes(shape, value_bytes, sizes) + bool(sizes) * page_bytes
    room = max(0, _cache_bytes(config, shape, device, value_bytes, free_memory, budget, graphs))
    pages = min(room // page_bytes, longest * config.max_running)
    if pages < 1:
        raise InsufficientMemory(
            f"the KV cache needs {page_bytes} bytes for one page of {config.page_size} tokens; it may take {room}"
        )
    context = min(wanted, pages * config.page_size)
    overlap = device != "cpu" if config.overlap is None else config.overlap
    return Plan(
        device, dtype, kernels, overlap, threads, weight_bytes, packed_bytes, config.page_size, pages, page_bytes,
        context, config.max_running, budget, config.max_waiting, config.prefix_caching,
        sizes, _clamp_warning(wanted, context),
        config.max_waiting_tokens or _most_waiting_tokens(pages * config.page_size, config.max_waiting),
    )


def _most_waiting_tokens(kv_tokens: int, max_waiting: int) -> int:
    return max(_CACHES_WAITING * kv_tokens, _SHORT_PROMPT * max_waiting)


def _graph_sizes(config: EngineConfig, recordable: bool) -> tuple[int, ...]:
    """Powers of two, and the most that can run; none where determinism cuts the keys of every context it could have.

    A fixed cut means that a graph, which must serve the longest context, starts hundreds of idle programs a request.
    """
    if config.graph_sizes is not None:
        return config.graph_sizes
    if not recordable or config.deterministic:
        return ()
    most = min(config.max_running, _LARGEST_GRAPH)
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def _clamp_warning(wanted: int, context: int) -> tuple[str, ...]:
    if context == wanted:
        return ()
    return (f"the context is cut from {wanted} to {context} tokens: the KV cache has no memory for more (--kv-memory)",)


def _cache_bytes(
    config: EngineConfig, shape: Architecture, device: str, value_bytes: int, free_memory: int, token_budget: int,
    graphs: int,
) -> int:
    if config.kv_memory is not None:
        return config.kv_memory
    step = activation_bytes(shape, value_bytes, token_budget, config.max_running)
    tables = table_bytes(shape, value_bytes, config.max_model_len or shape.context, config.max_running)
    room = int(free_memory * config.memory_utilization) - step - tables - graphs
    return min(room, DEFAULT_CPU_KV_BYTES) if device == "cpu" else room


def table_bytes(shape: Architecture, value_bytes: int, context: int, max_running: int) -> int:
    """Bytes of the tables that grow with the context: token ids of every row, cosines and sines of every position."""
    return context * (max_running * 8 + 2 * shape.head_dim * value_bytes)


def activation_bytes(shape: Architecture, value_bytes: int, token_budget: int, max_running: int) -> int:
    """Upper estimate of what one full step allocates beside weights and cache.

    A token of the budget holds a few hidden states and both halves of the feed-forward gate at once; a sampled row
    holds its logits in float32 a few times over (adjusted, sorted, noise).
    """
    token = 8 * shape.hidden_size + 3 * shape.intermediate_size + 4 * shape.heads * shape.head_dim
    row = 4 * 4 * shape.vocab_size
    return token_budget * token * value_bytes + max_running * row


def graph_bytes(shape: Architecture, value_bytes: int, sizes: tuple[int, ...]) -> int:
    """Upper estimate of what recorded decodes hold for good.

    A line of the largest has its hidden states, its logits in the model's type and in float32, and a result of
    attention in float32 for each part its keys are split in, counted as four. As many lines as are drawn at once have
    each token's value and id once more. All sizes together take twice the largest, since they double, plus what the
    driver keeps of each.
    """
    if not sizes:
        return 0
    largest = sizes[-1]
    token = 8 * shape.hidden_size + 3 * shape.intermediate_size + 4 * shape.heads * shape.head_dim
    line = token * value_bytes + shape.vocab_size * (value_bytes + 4) + 4 * 4 * shape.heads * shape.head_dim
    drawing = min(largest, _LINES_DRAWN_AT_ONCE) * 8 * shape.vocab_size
    return 2 * (largest * line + drawing) + len(sizes) * _GRAPH_OVERHEAD
