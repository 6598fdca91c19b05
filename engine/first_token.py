"""The shortest way from exec to a first token on standard output: `python -m engine.first_token MODEL`.

What `pilotlight boot` measures, in a process of its own. The token comes first; everything that is told about it is
told afterwards.
"""

from __future__ import annotations

from engine.timeline import Timeline  # isort: skip (it notes when our first line ran)

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from engine.errors import EngineDead, PilotlightError
from engine.start import Start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.boot import Booted
    from engine.config import EngineConfig
    from engine.request import Event


def main() -> int:
    """Run it; gives the exit status, 1 with a line on standard error when there is no token."""
    timeline = Timeline()
    options = _options()
    try:
        report = _run(options, timeline)
        if options.report is not None:
            with open(options.report, "w") as file:  # noqa: PTH123 (it may be the number of an open file)
                json.dump(report, file)
    except (PilotlightError, OSError) as error:
        print(f"pilotlight: {error}", file=sys.stderr, flush=True)
        os._exit(1)  # torch may still be importing, in a thread that the interpreter could not end.
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m engine.first_token", description=__doc__)
    parser.add_argument("model", nargs="?", default="demo", help="demo, a folder, or a hub id")
    parser.add_argument("--prompt", help="a text to complete")
    parser.add_argument("--prompt-tokens", type=int, default=32, metavar="N", help="else: so many random token ids")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--kv-memory", type=int, metavar="BYTES")
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--report", type=_place, metavar="FILE", help="gets the timeline as JSON: a path or a number")
    return parser.parse_args()


def _place(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _run(options: argparse.Namespace, timeline: Timeline) -> dict[str, Any]:
    """Boot, write the first token, finish what was put off; gives the report."""
    booted = _boot(options, Start(options.model, timeline))
    prompt = _prompt(options, booted)
    token_id = _first_token(booted, prompt)
    with timeline.span("deferred"):
        booted.core.finish_deferred()
    return {
        "origin": timeline.origin, "start_kind": "fresh",
        "ready_s": timeline.end("ready"), "spans": timeline.as_dicts(),
        "prompt_tokens": len(prompt), "token_id": token_id, "device": booted.plan.device, "dtype": booted.plan.dtype,
    }


def _boot(options: argparse.Namespace, start: Start) -> Booted:
    from engine.boot import boot_core

    return boot_core(_config(options), start)


def _config(options: argparse.Namespace) -> EngineConfig:
    from engine.config import EngineConfig

    return EngineConfig(
        model=options.model, device=options.device, dtype=options.dtype, max_model_len=options.max_model_len,
        kv_memory=options.kv_memory, quantize=options.quantize,
    )


def _prompt(options: argparse.Namespace, booted: Booted) -> list[int]:
    if options.prompt is not None:
        return booted.model.tokenizer.encode(options.prompt, add_special_tokens=True)
    import random

    draw = random.Random(0)
    return [draw.randrange(booted.model.vocab_size) for _ in range(options.prompt_tokens)]


def _first_token(booted: Booted, prompt: Sequence[int]) -> int:
    """Compute it and write its text to standard output; gives its id."""
    event = _compute(booted, prompt)
    os.write(sys.stdout.fileno(), f"{event.text}\n".encode())
    return event.token_ids[0]


def _compute(booted: Booted, prompt: Sequence[int]) -> Event:
    from engine.engine import new_requests
    from engine.request import SamplingParams

    requests = new_requests(
        prompt, SamplingParams(temperature=0, max_tokens=1), request_id="first", order=lambda: 0,
        max_model_len=booted.plan.max_model_len, vocab_size=booted.model.vocab_size,
    )
    booted.core.add(requests[0])
    while not (events := booted.core.step()):
        pass
    [event] = events
    if event.finish is not None and event.finish.error is not None:
        raise EngineDead(event.finish.error)
    return event


if __name__ == "__main__":
    sys.exit(main())
