"""What a process holds, by the kernel's own books: memory, files and threads, sampled while it works."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

_FIELD = re.compile(r"^(Rss|Pss|Pss_Anon):\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """At one moment.

    Attributes:
        at_s: seconds since the first sample.
        rss: bytes in memory, `pss` of those its share where others have them too, `anonymous` those that no file backs.
    """

    at_s: float
    rss: int
    pss: int
    anonymous: int
    files: int
    threads: int


def look(pid: int, began: float) -> Sample:
    """The process now; `began` in monotonic seconds.

    Raises:
        OSError: there is no such process.
    """
    place = Path(f"/proc/{pid}")
    sizes = {name: 1024 * int(size) for name, size in _FIELD.findall((place / "smaps_rollup").read_text())}
    return Sample(
        round(time.monotonic() - began, 1), sizes["Rss"], sizes["Pss"], sizes["Pss_Anon"],
        len(list((place / "fd").iterdir())), len(list((place / "task").iterdir())),
    )


@dataclass(slots=True)
class Sampler:
    """Looks at a process every few seconds, on a thread of its own.

    Attributes:
        on_sample: called with each.
    """

    pid: int
    every_s: float = 5.0
    on_sample: Callable[[Sample], object] = lambda sample: None
    samples: list[Sample] = field(default_factory=list)
    _stopped: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        began = time.monotonic()
        while True:
            self.samples.append(look(self.pid, began))
            self.on_sample(self.samples[-1])
            if self._stopped.wait(self.every_s):
                return


def growth(samples: Sequence[Sample], warm_s: float, window_s: float) -> dict[str, Any]:
    """How much memory has grown: medians of the window after the warm-up and of the last one, bytes and their ratio."""
    last = samples[-1].at_s - window_s
    early = [one for one in samples if warm_s <= one.at_s < warm_s + window_s]
    late = [one for one in samples if one.at_s >= last]
    found: dict[str, Any] = {}
    for name in ("rss", "pss", "anonymous"):
        before, after = (int(statistics.median(getattr(one, name) for one in part)) for part in (early, late))
        found[name] = {"after_warm_up": before, "at_the_end": after, "growth": round(after / before - 1, 4)}
    return found


def as_dicts(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """As JSON can hold them."""
    return [asdict(sample) for sample in samples]
