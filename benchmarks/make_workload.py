"""Make a workload for `pilotlight bench offline`: `python -m benchmarks.make_workload FILE`."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path


def make_workload(
    file: Path, requests: int = 24, prompt: tuple[int, int] = (64, 384), output: tuple[int, int] = (32, 128),
    vocabulary: int = 49152, seed: int = 0,
) -> Path:
    """Write `requests` random prompts, a JSON object a line, lengths drawn evenly from the two ranges."""
    draw = random.Random(seed)
    lines = (
        {"ids": [draw.randrange(vocabulary) for _ in range(draw.randint(*prompt))], "max_tokens": draw.randint(*output)}
        for _ in range(requests)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def main() -> None:
    """Read the command line and make the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--prompt", type=int, nargs=2, default=(64, 384), metavar=("LEAST", "MOST"))
    parser.add_argument("--output", type=int, nargs=2, default=(32, 128), metavar=("LEAST", "MOST"))
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args())
    print(make_workload(**arguments))


if __name__ == "__main__":
    main()
