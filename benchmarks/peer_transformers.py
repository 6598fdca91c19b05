"""A workload through transformers' continuous batching, greedy; prints one JSON object.

`python -m benchmarks.peer_transformers MODEL --workload FILE --dtype bfloat16`
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig


def run(model: Any, work: list[dict[str, Any]]) -> dict[str, Any]:
    """All requests at once; seconds count from the first submission to the last token."""
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max_output(work))
    with model.continuous_batching_context_manager(generation_config=config, block=True) as manager:
        started = time.perf_counter()
        for number, item in enumerate(work):
            manager.add_request(item["ids"], request_id=str(number), max_new_tokens=item["max_tokens"])
        outputs: dict[str, list[int]] = {}
        while len(outputs) < len(work):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("transformers' continuous batching stopped early")
            if result is not None and result.is_finished():
                outputs[result.request_id] = list(result.generated_tokens)
        seconds = time.perf_counter() - started
    produced = sum(map(len, outputs.values()))
    wanted = sum(item["max_tokens"] for item in work)
    if produced != wanted:
        raise RuntimeError(f"{produced} tokens came, {wanted} were asked for")
    rate = produced / seconds
    return {"requests": len(work), "output_tokens": produced, "seconds": seconds, "output_tokens_per_s": rate}


def max_output(work: list[dict[str, Any]]) -> int:
    """The most tokens any of the requests asks for."""
    return max(item["max_tokens"] for item in work)


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "eager"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    work = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(
        arguments.model, dtype=getattr(torch, arguments.dtype), attn_implementation=arguments.attention
    )
    stdout, sys.stdout = sys.stdout, sys.stderr
    figures = run(model.eval(), work)
    sys.stdout = stdout
    print(json.dumps({"peer": f"transformers {transformers.__version__} continuous batching", **figures}))


if __name__ == "__main__":
    main()
