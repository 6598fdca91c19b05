"""What a control plane 50 ms away adds to a streamed job of 200 tokens, for both loops.

    python -m benchmarks.job_streams --json benchmarks/results/job_streams.json

The engine's own time is that of the same job, whole, with a control plane that is near. The sides take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.bars import Bar, at_most
from benchmarks.machine import describe
from tests.handler.control_plane import ControlPlane
from tests.handler.job_loops import LOOPS, Loop, long, worker

ROUND_TRIP_S = 0.05
TOKENS = 200
Times = dict[str, list[float]]


def main() -> None:
    """Print each loop's times, in seconds, and what ours is held to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loops = {loop: {name: summary(times) for name, times in measure(loop, options.rounds).items()} for loop in LOOPS}
    bar = judge(loops["native"])
    text = json.dumps({"machine": describe(), "loops": loops, "bar": asdict(bar)}, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def measure(loop: Loop, rounds: int) -> Times:
    """Seconds from a job's being handed out: to its whole result nearby; to its last piece and its result far away."""
    times: Times = {"engine_s": [], "last_piece_s": [], "result_s": []}
    with ExitStack() as stack:
        near, far = (stack.enter_context(ControlPlane(way).listening()) for way in (0.0, ROUND_TRIP_S))
        for plane in (near, far):
            stack.enter_context(worker(plane, loop))
            plane.run("warm", long(TOKENS))
        for number in range(rounds):
            name = f"job {number}"
            whole = near.run(name, {**long(TOKENS), "stream": False})
            times["engine_s"].append(whole.done_at - near.handed[name])
            streamed = far.run(name, long(TOKENS))
            times["last_piece_s"].append(streamed.streamed_at - far.handed[name])
            times["result_s"].append(streamed.done_at - far.handed[name])
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(times), "least": min(times), "most": max(times)}


def judge(ours: dict[str, dict[str, float]]) -> Bar:
    """The last piece is there after the engine's own time, a tenth of it, and two round trips."""
    bar = 1.1 * ours["engine_s"]["median"] + 2 * ROUND_TRIP_S
    return at_most("200 tokens streamed over round trips of 50 ms, seconds", ours["last_piece_s"]["median"], bar)


if __name__ == "__main__":
    main()
