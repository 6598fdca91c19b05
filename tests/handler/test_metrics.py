"""/metrics has the names dashboards know, and counts right."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

NAMES = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info",
    "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:num_preemptions_total",
    "pilotlight_kernel_compiles_total",
    "vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total", "vllm:generation_tokens_total",
    "vllm:request_success_total", "vllm:time_to_first_token_seconds_count", "vllm:inter_token_latency_seconds_count",
    "vllm:request_time_per_output_token_seconds_count", "vllm:e2e_request_latency_seconds_count",
    "vllm:request_queue_time_seconds_count", "vllm:request_inference_time_seconds_count",
    "vllm:request_prefill_time_seconds_count", "vllm:request_decode_time_seconds_count",
    "vllm:request_prompt_tokens_sum", "vllm:request_generation_tokens_sum", "vllm:request_params_n_sum",
    "vllm:request_params_max_tokens_sum",
}


def read(http: httpx.Client) -> dict[str, float]:
    """Samples by name; those of one name with several labels are added up."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, 0) + sample.value
            assert not sample.name.startswith("vllm:") or sample.labels["model_name"] == "demo"
    return samples


def test_counts_are_right(http: httpx.Client) -> None:
    before = read(http)
    messages = [{"role": "user", "content": "Count from 3 to 7."}]
    body = {"messages": messages, "n": 2, "max_tokens": 50, "ignore_eos": True}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    after = read(http)
    assert after.keys() >= NAMES
    grown = {name: after[name] - before.get(name, 0) for name in NAMES}
    assert grown["vllm:request_success_total"] == 2
    assert grown["vllm:prompt_tokens_total"] == usage["prompt_tokens"]
    assert grown["vllm:generation_tokens_total"] == usage["completion_tokens"] == 100
    assert grown["vllm:request_generation_tokens_sum"] == 100
    assert grown["vllm:request_params_n_sum"] == 2
    assert grown["vllm:request_params_max_tokens_sum"] == 100
    assert grown["vllm:time_to_first_token_seconds_count"] == 2
    assert grown["vllm:inter_token_latency_seconds_count"] == 98
    assert grown["vllm:e2e_request_latency_seconds_count"] == 2
    assert after["vllm:num_requests_running"] == 0
    assert after["vllm:kv_cache_usage_perc"] == 0


def test_prefix_hits_are_counted_in_tokens(http: httpx.Client) -> None:
    body = {"prompt": list(range(100, 164)), "max_tokens": 1, "cache_salt": "metrics"}
    http.post("/v1/completions", json=body)
    before = read(http)
    cached = http.post("/v1/completions", json=body).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    after = read(http)
    assert cached > 0
    for name in ("vllm:prefix_cache_hits_total", "vllm:prompt_tokens_cached_total"):
        assert after[name] - before[name] == cached
