"""A workload through OpenVINO GenAI's continuous batching, greedy; prints one JSON object.

`python benchmarks/peer_openvino.py MODEL --workload FILE --dtype float32 --converted FOLDER`

Needs `openvino-genai`, and `optimum-intel` with torch for the conversion. The pipeline is given token ids, and takes as
many a step as it is fastest with among `--batch-tokens`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def convert(model: Path, folder: Path) -> None:
    """Write a Hugging Face folder as OpenVINO's, in float32; what it computes in is chosen when it is loaded."""
    exporter = Path(sys.executable).with_name("optimum-cli")
    command = [str(exporter), "export", "openvino", "--model", str(model), "--task", "text-generation-with-past"]
    subprocess.run([*command, "--weight-format", "fp32", str(folder)], check=True, stdout=sys.stderr)


def make_pipeline(arguments: argparse.Namespace, batch_tokens: int) -> Any:
    """A pipeline that takes `batch_tokens` a step, with chunked prefill and without a prefix cache."""
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = arguments.cache_gb
    scheduling.max_num_batched_tokens = batch_tokens
    scheduling.dynamic_split_fuse = True
    scheduling.enable_prefix_caching = False
    precision = PRECISIONS[arguments.dtype]
    properties = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": arguments.threads}
    properties["KV_CACHE_PRECISION"] = "u8" if arguments.kv_cache == "u8" else precision
    return openvino_genai.ContinuousBatchingPipeline(str(arguments.converted), scheduling, "CPU", properties)


def generate(pipeline: Any, work: list[dict[str, Any]]) -> list[list[int]]:
    """Every request's output; all are submitted before the first step."""
    handles = [
        pipeline.add_request(number, openvino.Tensor(np.array([item["ids"]], np.int64)), greedy(item["max_tokens"]))
        for number, item in enumerate(work)
    ]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return [[int(token) for token in handle.read_all()[0].generated_ids] for handle in handles]


def greedy(max_tokens: int) -> Any:
    """Exactly `max_tokens` tokens, each the likeliest."""
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = max_tokens
    config.ignore_eos = True
    config.do_sample = False
    return config


def run(arguments: argparse.Namespace, work: list[dict[str, Any]]) -> tuple[dict[str, Any], list[list[int]]]:
    """The figures and outputs of the fastest number of tokens a step, after one warm-up request each."""
    tried: dict[int, tuple[float, float, list[list[int]]]] = {}
    for batch_tokens in arguments.batch_tokens:
        started = time.perf_counter()
        pipeline = make_pipeline(arguments, batch_tokens)
        generate(pipeline, [{"ids": work[0]["ids"][:8], "max_tokens": 2}])
        load_seconds = time.perf_counter() - started
        started = time.perf_counter()
        outputs = generate(pipeline, work)
        tried[batch_tokens] = time.perf_counter() - started, load_seconds, outputs
        del pipeline
    best = min(tried, key=lambda batch_tokens: tried[batch_tokens][0])
    seconds, load_seconds, outputs = tried[best]
    settings = {"batch_tokens": best, "kv_cache": arguments.kv_cache, "threads": arguments.threads}
    tried_s = {batch_tokens: taken[0] for batch_tokens, taken in tried.items()}
    return {"seconds": seconds, "load_seconds": load_seconds, "settings": settings, "tried_s": tried_s}, outputs


def main() -> None:
    """Read the command line, convert the model if that is still to be done, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", default="float32", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--converted", type=Path, required=True, help="OpenVINO's folder, written if it is not there")
    parser.add_argument("--kv-cache", default="same", choices=["same", "u8"], help="the dtype's own, or bytes")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--cache-gb", type=int, default=1)
    parser.add_argument("--tokens-out", type=Path)
    arguments = parser.parse_args()
    if not (arguments.converted / "openvino_model.xml").exists():
        convert(arguments.model, arguments.converted)
    work = [json.loads(line) for line in arguments.workload.read_text().splitlines()]
    figures, outputs = run(arguments, work)
    if [len(tokens) for tokens in outputs] != [item["max_tokens"] for item in work]:
        raise RuntimeError("a request did not get the number of tokens it asked for")
    if arguments.tokens_out:
        arguments.tokens_out.write_text("".join(json.dumps(tokens) + "\n" for tokens in outputs))
    produced = sum(map(len, outputs))
    versions = {name: version(name) for name in ("openvino", "openvino-genai", "optimum-intel")}
    rate = produced / figures["seconds"]
    print(json.dumps({"versions": versions, "output_tokens": produced, "output_tokens_per_s": rate, **figures}))


if __name__ == "__main__":
    main()
