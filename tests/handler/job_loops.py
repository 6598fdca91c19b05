"""What the worker's two loops do in the same situations: `python -m tests.handler.job_loops` prints a table of it.

Each scenario runs against a control plane and a worker of its own or a shared one, and gives what was seen. The control
plane is that of these tests, or with `--local` that of `pilotlight up`.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Literal

from tests.handler.brake import Brake
from tests.handler.control_plane import POLL_S, ControlPlane, Fault
from tests.handler.processes import Process, eventually, running

Loop = Literal["sdk", "native"]
LOOPS: Final[tuple[Loop, ...]] = ("sdk", "native")

COUNT: Final = {
    "messages": [{"role": "user", "content": "Count from 3 to 30."}], "sampling_params": {"temperature": 0},
}
COUNTED: Final = " ".join(map(str, range(3, 31)))

TAKE_FAULTS: Final[Mapping[str, Fault]] = MappingProxyType({
    "500": Fault(500), "503": Fault(503), "429": Fault(429), "garbage": Fault(text="<html>"), "cut": Fault(cut=True),
})


@dataclass(frozen=True)
class Found:
    """What was seen.

    Attributes:
        lost: jobs that were handed out and came to no result, of `jobs` that were.
        asked: requests to the route that failed.
        rate: those requests a second.
        seconds: what the scenario measures, if it measures a time.
        said: what was answered where a result could not be.
    """

    jobs: int = 0
    lost: int = 0
    asked: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    said: str = ""


def long(tokens: int) -> dict[str, Any]:
    """A job that streams so many tokens, whatever the model thinks of it."""
    return {**COUNT, "stream": True, "sampling_params": {"ignore_eos": True, "max_tokens": tokens}}


def text_of(output: Sequence[dict[str, Any]]) -> str:
    """What a text job has generated."""
    return "".join(token for piece in output for choice in piece["choices"] for token in choice["tokens"])


@contextmanager
def worker(plane: ControlPlane, loop: Loop, **variables: str) -> Iterator[Process]:
    """A worker of this kind that has done its first job."""
    environment = {**plane.environment(), "PILOTLIGHT_JOB_LOOP": loop, **variables}
    with running(Process, "-m", "handler", environment=environment) as process:
        plane.run(f"first {process.popen.pid}", {"warmup": True})
        yield process


# With a worker that lives on.


def jobs(plane: ControlPlane) -> Found:
    """Twenty at once, every other one streamed."""
    names = [f"many {number}, {time.monotonic()}" for number in range(20)]
    for number, name in enumerate(names):
        plane.put(name, {**COUNT, "stream": bool(number % 2)})
    plane.ended(*names)
    right = [name for name in names if _is_right(plane, name)]
    return Found(len(names), len(names) - len(right))


def _is_right(plane: ControlPlane, name: str) -> bool:
    result = plane.results[name]
    return (
        result.done is not None and result.times_done == 1 and result.streamed == result.done["output"]
        and text_of(result.streamed) == COUNTED
    )


MANY: Final = 60
"""Requests in a few seconds that only one makes who does not wait in between."""


def take_fails(plane: ControlPlane, fault: Fault, seconds: float = 3.0) -> Found:
    """The queue cannot be asked for so long, or until it was asked `MANY` times; a job waits there."""
    name = f"patient {time.monotonic()}"
    with plane.failing("take", fault):
        time.sleep(POLL_S + 0.1)  # Until the poll that is open ends.
        began = time.monotonic()
        plane.put(name, COUNT)
        eventually(lambda: len(plane.asked("take", since=began)) >= MANY, seconds)
        asked, passed_s = plane.asked("take", since=began), time.monotonic() - began
    return Found(1, int(not plane.ended(name)), len(asked), len(asked) / passed_s)


def done_fails(plane: ControlPlane, fault: Fault, seconds: float, tries: int = 1, then_s: float = 8.0) -> Found:
    """Results are not accepted for a while after so many tries; `then_s` is how long one is waited for after that."""
    name, began = f"undelivered {time.monotonic()}", time.monotonic()
    with plane.failing("done", fault):
        plane.put(name, long(200))
        assert eventually(lambda: len(plane.asked("done", since=began)) >= tries)
        time.sleep(seconds)
        asked, passed_s = plane.asked("done", since=began), time.monotonic() - began
    plane.ended(name, within_s=then_s)
    done = plane.results[name].done
    return Found(1, int(done is None), len(asked), len(asked) / passed_s, said=(done or {}).get("error", ""))


def without_input(plane: ControlPlane) -> Found:
    """A job that has no input at all."""
    plane.put_raw({"id": "no input"})
    plane.ended("no input")
    done = plane.results["no input"].done
    return Found(1, int(done is None), said=(done or {}).get("error", ""))


def cancel(plane: ControlPlane) -> Found:
    """A running job is stopped; how long until nothing more came, and the next job is well."""
    plane.put("cancelled", long(2000))
    assert eventually(lambda: plane.results["cancelled"].streamed)
    plane.stop_job("cancelled")
    began = time.monotonic()
    # Whoever asks for the second time has had an answer to the first.
    assert eventually(lambda: len(plane.asked("stop", since=began)) >= 2 and _silent(plane, "cancelled"))
    last = max(seen.at for seen in plane.asked("stream") if seen.job == "cancelled")
    assert plane.results["cancelled"].done is None, "the platform knows already"
    return Found(seconds=max(0.0, last - began))


_SILENCE_S: Final = 0.5


def _silent(plane: ControlPlane, job: str) -> bool:
    return not [seen for seen in plane.asked("stream", since=time.monotonic() - _SILENCE_S) if seen.job == job]


def frozen(plane: ControlPlane, process: Process, seconds: float = 4.0) -> Found:
    """The worker is frozen, a job comes, the worker is resumed: how long until the job has ended."""
    process.popen.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    plane.put("after the freeze", COUNT)
    process.popen.send_signal(signal.SIGCONT)
    began = time.monotonic()
    ended = plane.ended("after the freeze")
    return Found(1, int(not ended), seconds=time.monotonic() - began)


# With a worker that ends.


def ends_idle(plane: ControlPlane, process: Process) -> Found:
    """SIGTERM to a worker that has nothing to do; how long until it is gone. Polls are held for 4 s."""
    time.sleep(0.3)
    began = time.monotonic()
    status = process.stop()
    return Found(seconds=time.monotonic() - began, said=f"exit {status}")


def ends_at_work(plane: ControlPlane, process: Process, brake: Brake | None = None) -> Found:
    """SIGTERM amid six streams, and another job comes soon after it."""
    names = [f"under way {number}" for number in range(6)]
    with brake.held() if brake else nullcontext():
        for name in names:
            plane.put(name, long(300))
        assert eventually(lambda: all(plane.results[name].streamed for name in names))
        assert eventually(lambda: plane.asked("take", since=max(plane.handed[name] for name in names)))
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        # By then it has heard the signal: pieces of one job come one after the other.
        assert eventually(lambda: _pieces(plane, names[0], began) >= _PIECES or process.popen.poll() is not None)
        plane.put("late", COUNT)
    plane.poll_s = 0.0
    status = process.wait()
    seconds = time.monotonic() - began
    time.sleep(0.2)
    handed = [name for name in [*names, "late"] if name in plane.handed]
    lost = [name for name in handed if plane.results[name].done is None]
    return Found(len(handed), len(lost), seconds=seconds, said=f"exit {status}")


_PIECES: Final = 6


def _pieces(plane: ControlPlane, job: str, since: float) -> int:
    return len([seen for seen in plane.asked("stream", since=since) if seen.job == job])


def killed(plane: ControlPlane, process: Process) -> Found:
    """SIGKILL; how many signs of life come once there was time for some, a minute at most."""
    assert eventually(lambda: plane.pings)
    process.stop(signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: _quiet_since(plane, began))
    return Found(said=f"{len(plane.asked('ping', since=time.monotonic() - _PINGS_S))} signs of life")


_PINGS_S: Final = 2.5
"""In so long a living worker pings twice."""


def _quiet_since(plane: ControlPlane, began: float) -> bool:
    now = time.monotonic()
    return now > began + _PINGS_S and not plane.asked("ping", since=now - _PINGS_S)


LASTING: Final[Mapping[str, Callable[[ControlPlane], Found]]] = MappingProxyType({
    "20 jobs at once": jobs,
    **{f"take: {name}, 5 s": partial(take_fails, fault=fault, seconds=5.0) for name, fault in TAKE_FAULTS.items()},
    "done: 500 for 7 s": partial(done_fails, fault=Fault(500), seconds=7.0),
    "done: connection cut for 7 s": partial(done_fails, fault=Fault(cut=True), seconds=7.0),
    "done: 429 for 1 s": partial(done_fails, fault=Fault(429), seconds=1.0),
    "done: 404": partial(done_fails, fault=Fault(404), seconds=1.0, then_s=2.0),
    "done: 400, the result is too large": partial(done_fails, fault=Fault(400, over=600), seconds=1.0),
    "a job without input": without_input,
    "a job is cancelled": cancel,
})
"""Scenarios that one worker lives through."""

ENDING: Final[Mapping[str, Callable[[ControlPlane, Process], Found]]] = MappingProxyType({
    "frozen for 4 s": frozen,
    "SIGTERM, idle": ends_idle,
    "SIGTERM amid 6 streams": ends_at_work,
    "SIGKILL": killed,
})
"""Scenarios that want a worker of their own."""


def observe(loop: Loop, make_plane: Callable[..., ControlPlane] = ControlPlane) -> dict[str, Found]:
    """Everything that this loop does."""
    found = {}
    with make_plane().listening() as plane, worker(plane, loop):
        for name, scenario in LASTING.items():
            found[name] = scenario(plane)
            print(loop, name, found[name], file=sys.stderr)
    for name, ending in ENDING.items():
        with make_plane(poll_s=4.0).listening() as plane, worker(plane, loop) as process:
            found[name] = ending(plane, process)
            print(loop, name, found[name], file=sys.stderr)
    return found


def main() -> None:
    """Print what the loops do, all or those that are named, as a Markdown table."""
    from tests.local.conforming import LocalPlane

    named = set(sys.argv[1:]) - {"--local"}
    loops = [loop for loop in LOOPS if loop in (named or LOOPS)]
    found = {loop: observe(loop, LocalPlane if "--local" in sys.argv else ControlPlane) for loop in loops}
    print("| what happens | " + " | ".join(loops) + " |")
    print("|---|" + "---|" * len(loops))
    for name in found[loops[0]]:
        print(f"| {name} | " + " | ".join(_cell(found[loop][name]) for loop in loops) + " |")


def _cell(found: Found) -> str:
    parts = [f"lost {found.lost} of {found.jobs}"] if found.jobs else []
    parts += [f"{found.rate:.1f} requests/s"] if found.rate else []
    parts += [f"{found.seconds:.1f} s"] if found.seconds else []
    return ", ".join([*parts, found.said] if found.said else parts)


if __name__ == "__main__":
    main()
