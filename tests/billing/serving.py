"""Servers that record, the load they are under, and what is on the disk and in the ledger afterwards."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from handler.billing.journal_folder import all_segments
from handler.billing.lines import Line
from handler.billing.recovery import Recovered, journals, recover
from handler.billing.segment import UNDER, decode, split
from handler.billing.store import Store, StoreTrouble, open_store
from tests.handler.processes import NOTHING, Process, Server, eventually, running

SERVE = ("-m", "pilotlight", "serve", "--port", "0")
CLIENTS = 4


@dataclass(frozen=True)
class Places:
    """Where a server records.

    Attributes:
        open_interval_s: what may be lost.
    """

    folder: Path
    ledger: str
    open_interval_s: float = 0.5

    @classmethod
    def below(cls, folder: Path, open_interval_s: float = 0.5) -> Places:
        """With a folder as the ledger."""
        return cls(folder, f"file://{folder / 'ledger'}", open_interval_s)

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def store(self) -> Store:
        return open_store(self.ledger)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PILOTLIGHT_LEDGER": self.ledger, "PILOTLIGHT_JOURNAL": str(self.journal),
            "PILOTLIGHT_OPEN_INTERVAL": str(self.open_interval_s), "PILOTLIGHT_PRICE": "0.00155",
        }


@contextmanager
def recording(places: Places, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """A server that is ready."""
    with running(Server, *SERVE, environment={**places.environment, **(environment or NOTHING)}) as server:
        server.await_ready()
        yield server


@dataclass
class Load:
    """Clients that ask again and again.

    Attributes:
        answered: ids of answers.
        failed: requests without an answer.
    """

    url: str
    answered: list[str] = field(default_factory=list)
    failed: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; waits for those under way."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        body = {"model": "demo", "prompt": "Count", "max_tokens": 10 + 17 * number, "user": f"tenant-{number % 3}"}
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/v1/completions", json=body)
                    answer.raise_for_status()
                    self.answered.append(answer.json()["id"])
                except httpx.HTTPError:
                    self.failed += 1
                    self._over.wait(0.02)


def journalled(places: Places) -> list[Line]:
    """Every whole line in the journals, as of now. A segment that is renamed meanwhile may be left out."""
    found = []
    for folder in journals(places.journal):
        for path, _ in all_segments(folder):
            with contextlib.suppress(FileNotFoundError):
                found += [line for raw in split(path.read_bytes()) if (line := decode(raw)) is not None]
    return found


def recorded(places: Places) -> list[Line]:
    """Every line that is in the journals or in the ledger; some stand in both."""
    return journalled(places) + delivered(places)


def delivered(places: Places) -> list[Line]:
    """Every line of a ledger that there may not be yet."""
    try:
        return in_ledger(places.store)
    except StoreTrouble:
        return []


def await_record(places: Places, load: Load) -> set[str]:
    """Wait until all that was answered by now is recorded, and give it."""
    assert eventually(lambda: load.answered), "nothing was answered"
    answered = set(load.answered)
    assert eventually(lambda: answered <= requests_of(recorded(places)).keys()), "it is not recorded"
    return answered


def in_ledger(store: Store) -> list[Line]:
    """Every line of the ledger, each once.

    Raises:
        AssertionError: two lines of one id differ.
    """
    lines: dict[str, Line] = {}
    for stored in store.keys(UNDER):
        for raw in split(gzip.decompress(store.get(stored.key))):
            line = decode(raw)
            assert line is not None, stored.key
            assert lines.setdefault(line["id"], line) == line
    return list(lines.values())


def end(server: Process, places: Places) -> None:
    """Have it end well. What its last seconds were too short for is recovered, as the log asks for."""
    assert server.stop() == 0, server.output
    if "not all is in the ledger" in server.output:
        bring_rest(places.journal, places.store)


def recover_all(places: Places) -> list[Recovered]:
    """Recover every journal, as soon as its worker is taken for dead."""
    return bring_rest(places.journal, places.store, 3 * places.open_interval_s)


def bring_rest(root: Path, store: Store, older_than_s: float = 0.0) -> list[Recovered]:
    """Recover the journals of workers that are gone, until none is left."""

    done: list[Recovered] = []

    def none_is_left() -> bool:
        done[:] = recover(root, store, older_than_s)
        return not journals(root)

    assert eventually(none_is_left), done
    return done


def requests_of(lines: list[Line]) -> Counter[str]:
    """How often each request stands in the lines; those without a name are not asked for."""
    return Counter(line["request"] for line in lines if line["kind"] == "request" and line["request"])


def billed_ms(lines: list[Line]) -> int:
    """Milliseconds of all phases."""
    return sum(line["ms"] for line in lines if line["kind"] == "phase")
