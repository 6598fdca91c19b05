"""From exec to a first token with OpenVINO GenAI: `python benchmarks/cold_openvino.py CONVERTED --ids 1 2 3`.

Needs `openvino-genai` and a folder it can read. Prints the token's text as soon as it is there, then a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import openvino_genai
from openvino import Tensor


def make_pipeline(folder: Path, pipeline: str, threads: int, cached: bool) -> Any:
    """A pipeline; one that is cached keeps what it compiled beside the model, which its next start reads."""
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
    if cached:
        properties["CACHE_DIR"] = str(folder / "cache")
    if pipeline == "continuous":
        scheduling = openvino_genai.SchedulerConfig()
        scheduling.cache_size = 1
        return openvino_genai.ContinuousBatchingPipeline(str(folder), scheduling, "CPU", properties)
    return openvino_genai.LLMPipeline(str(folder), "CPU", ATTENTION_BACKEND=pipeline.upper(), **properties)


def first_token(pipeline: Any, ids: list[int]) -> int:
    """The likeliest token after a prompt."""
    config = openvino_genai.GenerationConfig(max_new_tokens=1, do_sample=False, ignore_eos=True)
    if isinstance(pipeline, openvino_genai.ContinuousBatchingPipeline):
        return int(pipeline.generate([Tensor([ids])], [config])[0].m_generation_ids[0][0])
    return int(pipeline.generate(Tensor([ids]), config).tokens[0][0])


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ids", type=int, nargs="+", required=True)
    parser.add_argument("--pipeline", choices=["continuous", "pa", "sdpa"], default="continuous")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    pipeline = make_pipeline(arguments.folder, arguments.pipeline, arguments.threads, arguments.cached)
    token = first_token(pipeline, arguments.ids)
    os.write(sys.stdout.fileno(), (pipeline.get_tokenizer().decode([token]) + "\n").encode())
    print(json.dumps({"token_id": token, "version": openvino_genai.__version__}))


if __name__ == "__main__":
    main()
