"""Train the demo model from scratch and write it as a Hugging Face folder: `python -m image.demo OUT_DIR`."""

import argparse
import copy
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final

import torch
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from image.demo_corpus import Mix, tokenizer_texts
from image.demo_tokenizer import build_tokenizer, save_tokenizer
from image.demo_train import Plan, new_model, train

VOCABULARY: Final = 1536

_SUMS_FIRST: Final[Mix] = MappingProxyType(
    {
        "counting": 10,
        "repeat": 3,
        "reverse": 3,
        "sum": 60,
        "json": 22,
        "tool_call": 12,
        "tool_result": 2,
        "no_tool": 8,
        "faq": 3,
        "unknown": 1,
    }
)
_JSON_FIRST: Final[Mix] = MappingProxyType(
    {
        "counting": 16,
        "repeat": 5,
        "reverse": 5,
        "sum": 26,
        "json": 36,
        "tool_call": 24,
        "tool_result": 5,
        "no_tool": 3,
        "faq": 4,
        "unknown": 3,
    }
)


def course(seed: int, scale: float) -> tuple[Plan, ...]:
    """The runs that made the published model, each from the weights the last one saved; `scale` multiplies their steps.

    Copying and counting come by themselves in the first. Sums and JSON need more of a share than that leaves them, and
    a high learning rate; the last run settles what the second one shook.
    """
    runs = (
        Plan(steps=4000, stop=3200, seed=seed),
        Plan(steps=2600, stop=2600, seed=seed + 1, learning_rate=2e-3, warm_up=50, mix=_SUMS_FIRST),
        Plan(steps=1500, stop=1500, seed=seed + 2, learning_rate=1e-3, warm_up=50, mix=_JSON_FIRST),
    )
    return tuple(replace(run, steps=round(run.steps * scale), stop=max(1, round(run.stop * scale))) for run in runs)


def make(folder: Path, runs: tuple[Plan, ...]) -> None:
    """Build the tokeniser, train a model run by run, and leave both in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(tokenizer_texts(Random(0), 20_000), VOCABULARY)
    save_tokenizer(tokenizer, folder)
    save_model(new_model(tokenizer, runs[0].seed), folder, torch.float32)
    for run in runs:
        started = time.monotonic()
        model = load_model(folder)
        print(f"{model.num_parameters()} parameters, {run}", flush=True)
        tokens = train(model, tokenizer, run, partial(save_model, model, folder, torch.bfloat16))
        print(f"trained on {tokens} tokens in {time.monotonic() - started:.0f} s", flush=True)


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model of a folder in float32, to be trained further."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_model(model: LlamaForCausalLM, folder: Path, dtype: torch.dtype) -> None:
    """Write weights in `dtype` and the two configurations; the model itself stays as it is."""
    saved: Any = copy.deepcopy(model)
    saved.to(dtype=dtype)
    config = model.config
    saved.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    saved.save_pretrained(folder)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m image.demo", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps: 0.01 for a trial")
    parser.add_argument("--threads", type=int, default=1, help="more are faster only on cores that do nothing else")
    parser.add_argument("--report-every", type=int, default=200, help="steps from one line of progress to the next")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    disable_progress_bar()
    make(given.folder, tuple(replace(run, report_every=given.report_every) for run in course(given.seed, given.scale)))


if __name__ == "__main__":
    main()
