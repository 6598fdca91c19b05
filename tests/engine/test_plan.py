"""How the memory is divided, and how a plan reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.errors import InsufficientMemory, InvalidConfig
from engine.models.architecture import Architecture
from engine.models.rope import Rope
from engine.plan import DEFAULT_CPU_KV_BYTES, Plan, activation_bytes, graph_bytes, make_plan, table_bytes

SHAPE = Architecture(
    hidden_size=64, intermediate_size=128, heads=4, kv_heads=2, head_dim=16, vocab_size=1000, epsilon=1e-5,
    rope=Rope((1.0,) * 8), context=2048, tied=True, windows=(None,) * 3,
)
TOKEN_BYTES = 2 * 3 * 2 * 16 * 2
"""Key and value, layers, heads, values a head, bytes a value."""
PAGE_BYTES = 16 * TOKEN_BYTES
PLENTY = 64 << 30


def plan_for(free_memory: int = PLENTY, device: str = "cpu", recordable: bool = False, **settings: Any) -> Plan:
    return make_plan(
        EngineConfig(**settings), SHAPE, device=device, dtype="bfloat16", value_bytes=2, kernels="stub", threads=4,
        weight_bytes=5 << 20, packed_bytes=0, free_memory=free_memory, recordable=recordable,
    )


def test_a_page_holds_keys_and_values_of_every_layer() -> None:
    assert plan_for().page_bytes == PAGE_BYTES
    assert plan_for(page_size=1).page_bytes == TOKEN_BYTES


def test_kv_memory_is_honoured_to_the_page() -> None:
    assert plan_for(kv_memory=10 * PAGE_BYTES).pages == 10
    assert plan_for(kv_memory=10 * PAGE_BYTES + PAGE_BYTES - 1).pages == 10
    assert plan_for(kv_memory=10 * PAGE_BYTES).kv_tokens == 160


def test_prompts_of_eight_caches_may_wait_and_short_ones_as_many_as_requests() -> None:
    assert plan_for(kv_memory=1000 * PAGE_BYTES).max_waiting_tokens == max(8 * 16_000, 64 * 1024)
    assert plan_for(kv_memory=10 * PAGE_BYTES).max_waiting_tokens == 64 * 1024
    assert plan_for(kv_memory=10 * PAGE_BYTES, max_waiting_tokens=7).max_waiting_tokens == 7


def test_no_more_pages_than_all_requests_could_fill() -> None:
    assert plan_for(max_running=2, token_budget=64).pages == 2 * 2048 // 16
    assert plan_for(max_running=2, token_budget=64, max_model_len=20).pages == 2 * 2


def test_a_cpu_is_left_room_for_others() -> None:
    plan = plan_for(max_running=100_000, token_budget=100_000, free_memory=1 << 50)
    assert plan.pages == DEFAULT_CPU_KV_BYTES // PAGE_BYTES


def test_a_gpu_is_filled_up_to_the_share_less_what_a_step_needs() -> None:
    settings: dict[str, Any] = {"memory_utilization": 0.5, "max_running": 20_000, "token_budget": 20_000}
    plan = plan_for(16 << 30, "cuda", **settings)
    step = activation_bytes(SHAPE, 2, token_budget=20_000, max_running=20_000)
    used = plan.pages * PAGE_BYTES + step + table_bytes(SHAPE, 2, context=2048, max_running=20_000)
    assert (8 << 30) - PAGE_BYTES < used <= 8 << 30


def test_a_context_that_does_not_fit_is_cut_and_said_so() -> None:
    plan = plan_for(kv_memory=10 * PAGE_BYTES)
    assert plan.max_model_len == 160
    assert plan.warnings == (
        "the context is cut from 2048 to 160 tokens: the KV cache has no memory for more (--kv-memory)",
    )
    assert plan.lines()[-1] == f"WARNING    {plan.warnings[0]}"


def test_a_context_that_fits_is_the_models_or_the_users() -> None:
    assert (plan_for().max_model_len, plan_for().warnings) == (2048, ())
    assert plan_for(max_model_len=100).max_model_len == 100


def test_a_context_longer_than_the_models_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="max_model_len 2049 is more than the model's context of 2048"):
        plan_for(max_model_len=2049)


@pytest.mark.parametrize("free_memory", [-1, 0, 1 << 20])
def test_memory_for_not_one_page_is_refused(free_memory: int) -> None:
    with pytest.raises(InsufficientMemory, match=f"needs {PAGE_BYTES} bytes for one page of 16 tokens"):
        plan_for(free_memory=free_memory)


def test_kv_memory_for_not_one_page_is_refused_with_what_was_given() -> None:
    with pytest.raises(InsufficientMemory, match=f"{PAGE_BYTES} bytes .*; it may take {PAGE_BYTES - 1}$"):
        plan_for(kv_memory=PAGE_BYTES - 1)


@given(
    free_memory=st.integers(1 << 28, 1 << 36), page_size=st.sampled_from([1, 8, 16, 64]),
    max_running=st.integers(1, 512), max_model_len=st.one_of(st.none(), st.integers(1, 2048)),
)
def test_one_request_of_the_whole_context_always_fits(
    free_memory: int, page_size: int, max_running: int, max_model_len: int | None
) -> None:
    plan = plan_for(free_memory, page_size=page_size, max_running=max_running, max_model_len=max_model_len)
    assert plan.max_model_len <= plan.kv_tokens
    assert plan.pages * plan.page_bytes <= free_memory * 0.9
    assert (plan.max_model_len == (max_model_len or 2048)) == (not plan.warnings)


@pytest.mark.parametrize(
    ("max_running", "sizes"),
    [
        (1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (11, (1, 2, 4, 8, 11)), (256, (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        (1000, (1, 2, 4, 8, 16, 32, 64, 128, 256)),
    ],
)
def test_graphs_are_of_powers_of_two_up_to_the_most_that_run(max_running: int, sizes: tuple[int, ...]) -> None:
    assert plan_for(device="cuda", recordable=True, max_running=max_running).graph_sizes == sizes


def test_graphs_are_left_out_where_they_cannot_be_or_would_not_pay() -> None:
    assert plan_for().graph_sizes == ()
    assert plan_for(device="cuda", recordable=True, deterministic=True).graph_sizes == ()
    assert plan_for(device="cuda", recordable=True, graph_sizes=()).graph_sizes == ()
    assert plan_for(graph_sizes=(1, 3)).graph_sizes == (1, 3)


def test_graphs_and_their_page_have_memory_left_for_them() -> None:
    settings: dict[str, Any] = {"free_memory": 1 << 30, "device": "cuda", "max_running": 20_000, "token_budget": 20_000}
    without, with_graphs = (plan_for(**settings, recordable=recordable) for recordable in (False, True))
    reserved = graph_bytes(SHAPE, 2, with_graphs.graph_sizes) + PAGE_BYTES
    assert reserved > 0
    assert abs((without.pages - with_graphs.pages) * PAGE_BYTES - reserved) < PAGE_BYTES
    assert graph_bytes(SHAPE, 2, ()) == 0


def test_the_plan_names_its_graphs() -> None:
    assert "graphs     decodes of 1, 2, 4 requests" in plan_for(graph_sizes=(1, 2, 4)).lines()


def test_a_plan_reads_as_lines() -> None:
    assert plan_for(kv_memory=512 * PAGE_BYTES).lines() == [
        "device     cpu, bfloat16, 4 threads",
        "kernels    stub",
        "weights    5.0 MiB",
        "KV cache   3.0 MiB: 512 pages of 16 tokens, 8192 tokens in all",
        "context    2048 tokens a request",
        "step       up to 512 tokens of 256 requests; 1024 may wait, with prompts of 65536 tokens in all",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": ""}, "model must not be empty"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, bfloat16, float16"),
        ({"max_model_len": 0}, "max_model_len must be 1 or more"),
        ({"kv_memory": 0}, "kv_memory must be above 0 bytes"),
        ({"memory_utilization": 0.0}, "memory_utilization must be above 0 and at most 1"),
        ({"page_size": 12}, "page_size must be a power of two"),
        ({"max_running": 0}, "max_running must be 1 or more"),
        ({"max_running": 8, "token_budget": 7}, "token_budget must be at least max_running"),
        ({"max_waiting": 0}, "max_waiting must be 1 or more"),
        ({"graph_sizes": (0,)}, "graph_sizes must be above 0 and rise"),
        ({"graph_sizes": (2, 2)}, "graph_sizes must be above 0 and rise"),
        ({"graph_sizes": (4, 1)}, "graph_sizes must be above 0 and rise"),
        ({"threads": 0}, "threads must be from 1 to 1024"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        EngineConfig(**settings)
