"""A workload through transformers, greedy; prints one JSON object.

`python benchmarks/peer_transformers.py MODEL --workload FILE --dtype float32 --mode continuous`

Needs `transformers` and torch. `continuous` is its continuous batching, `static` one padded batch that runs until its
longest request is done, `single` one request after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

Work = list[dict[str, Any]]
Outputs = list[list[int]]

PAGE_SIZE = 256
BATCH_TOKENS = 512
WARM_UP: Work = [{"ids": [1, 2, 3, 4, 5, 6, 7, 8], "max_tokens": 2}]


def continuous(model: Any, work: Work) -> tuple[float, Outputs]:
    """Seconds and outputs, all requests submitted at once to transformers' scheduler."""
    most = max(item["max_tokens"] for item in work)
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=most)
    # Left to itself it takes most of the machine's memory for its cache and fills it with zeros.
    pages = sum(-(-(len(item["ids"]) + item["max_tokens"]) // PAGE_SIZE) + 1 for item in work)
    limits = ContinuousBatchingConfig(page_size=PAGE_SIZE, num_blocks=pages, max_batch_tokens=BATCH_TOKENS)
    with model.continuous_batching_context_manager(
        generation_config=config, continuous_batching_config=limits, block=True
    ) as manager:
        submit_and_wait(manager, WARM_UP)
        started = time.perf_counter()
        outputs = submit_and_wait(manager, work)
        return time.perf_counter() - started, outputs


def submit_and_wait(manager: Any, work: Work) -> Outputs:
    """The outputs of requests given to a running manager, in the order given.

    Raises:
        RuntimeError: the manager ended before they did.
    """
    names = [manager.add_request(item["ids"], max_new_tokens=item["max_tokens"]) for item in work]
    outputs: dict[str, list[int]] = {}
    while len(outputs) < len(work):
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError("transformers' continuous batching stopped early")
        if result is not None and result.is_finished():
            outputs[result.request_id] = list(result.generated_tokens)
    return [outputs[name] for name in names]


def static(model: Any, work: Work) -> tuple[float, Outputs]:
    """Seconds and outputs, all requests padded on the left to one batch; what is past a request's end is dropped."""
    generate(model, WARM_UP)
    started = time.perf_counter()
    outputs = generate(model, work)
    return time.perf_counter() - started, outputs


def single(model: Any, work: Work) -> tuple[float, Outputs]:
    """Seconds and outputs, one request after the other."""
    generate(model, WARM_UP)
    started = time.perf_counter()
    outputs = [output for item in work for output in generate(model, [item])]
    return time.perf_counter() - started, outputs


def generate(model: Any, work: Work) -> Outputs:
    """`model.generate` on one batch."""
    longest = max(len(item["ids"]) for item in work)
    ids = torch.tensor([[0] * (longest - len(item["ids"])) + item["ids"] for item in work])
    mask = torch.tensor([[0] * (longest - len(item["ids"])) + [1] * len(item["ids"]) for item in work])
    most = max(item["max_tokens"] for item in work)
    config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0, max_new_tokens=most)
    made = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    return [tokens[: item["max_tokens"]] for tokens, item in zip(made, work, strict=True)]


MODES: dict[str, Callable[[Any, Work], tuple[float, Outputs]]] = {
    "continuous": continuous, "static": static, "single": single
}


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--mode", default="continuous", choices=MODES)
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens-out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    work = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
    started = time.perf_counter()
    dtype = getattr(torch, arguments.dtype)
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=dtype, attn_implementation=arguments.attention
    ).eval()
    load_seconds = time.perf_counter() - started
    with redirect_stdout(sys.stderr):
        seconds, outputs = MODES[arguments.mode](model, work)
    if [len(tokens) for tokens in outputs] != [item["max_tokens"] for item in work]:
        raise RuntimeError("a request did not get the number of tokens it asked for")
    if arguments.tokens_out:
        arguments.tokens_out.write_text("".join(json.dumps(tokens) + "\n" for tokens in outputs))
    produced = sum(map(len, outputs))
    figures = {
        "versions": {name: version(name) for name in ("transformers", "torch")},
        "settings": {"mode": arguments.mode, "attention": arguments.attention, "threads": arguments.threads},
        "output_tokens": produced, "seconds": seconds, "output_tokens_per_s": produced / seconds,
        "load_seconds": load_seconds,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
