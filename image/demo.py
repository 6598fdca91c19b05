"""Train the demo model from scratch and write it as a Hugging Face folder: `python -m image.demo OUT_DIR`."""

import argparse
import copy
import time
from pathlib import Path
from random import Random
from typing import Final

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from image.demo_corpus import MIX, tokenizer_texts
from image.demo_tokenizer import build_tokenizer, save_tokenizer
from image.demo_train import Plan, new_model, train

VOCABULARY: Final = 1536


def make(folder: Path, plan: Plan, start: Path | None) -> None:
    """Train a model, a new one or the one in `start`, and leave it with its tokeniser in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(start / "tokenizer.json")) if start else _new_tokenizer()
    model = load_model(start) if start else new_model(tokenizer, plan.seed)
    save_tokenizer(tokenizer, folder)
    print(f"{model.num_parameters()} parameters, {tokenizer.get_vocab_size()} tokens in the vocabulary", flush=True)
    started = time.monotonic()
    tokens = train(model, tokenizer, plan, lambda: save_model(model, folder))
    print(f"trained on {tokens} tokens in {time.monotonic() - started:.0f} s")


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model of a folder in float32, to be trained further."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write weights in bfloat16 and the two configurations; the model itself stays in float32."""
    small = copy.deepcopy(model).bfloat16()
    config = model.config
    small.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=False,
    )
    small.save_pretrained(folder)


def _new_tokenizer() -> Tokenizer:
    return build_tokenizer(tokenizer_texts(Random(0), 20_000), VOCABULARY)


def _share(text: str) -> tuple[str, int]:
    kind, share = text.split("=")
    return kind, int(share)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m image.demo", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT_DIR")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--stop", type=int, help="stop after so many steps of a schedule of --steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-tokens", type=int, default=1024, help="padding included")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--start", type=Path, metavar="DIR", help="train the model of this folder further")
    parser.add_argument("--mix", type=_share, nargs="*", default=[], metavar="KIND=SHARE", help="instead of the usual")
    parser.add_argument("--warm-up", type=int, default=100, help="steps")
    parser.add_argument("--threads", type=int, default=1, help="more are faster only on cores that do nothing else")
    parser.add_argument("--report-every", type=int, default=200, help="steps from one line of progress to the next")
    return parser.parse_args()


def main() -> None:
    """The command line."""
    given = _arguments()
    disable_progress_bar()
    torch.set_num_threads(given.threads)
    plan = Plan(
        steps=given.steps,
        seed=given.seed,
        stop=given.stop,
        batch_tokens=given.batch_tokens,
        learning_rate=given.learning_rate,
        warm_up=given.warm_up,
        report_every=given.report_every,
        mix={**MIX, **dict(given.mix)},
    )
    make(given.folder, plan, given.start)


if __name__ == "__main__":
    main()
