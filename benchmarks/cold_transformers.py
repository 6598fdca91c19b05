"""From exec to a first token with transformers: `python benchmarks/cold_transformers.py MODEL --ids 1 2 3`.

Needs `transformers` and torch. Prints the token as soon as it is there, its id instead of its text, so that it needs
no tokenizer; then a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--ids", type=int, nargs="+", required=True)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype).eval()
    ids = torch.tensor([arguments.ids])
    config = GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0, max_new_tokens=1)
    made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    token = int(made[0, -1])
    os.write(sys.stdout.fileno(), f"{token}\n".encode())
    print(json.dumps({"token_id": token, "version": transformers.__version__}))


if __name__ == "__main__":
    main()
