"""What it costs to record every billed second: the same work with the books kept and without, in turns.

    python -m benchmarks.metering --rounds 40

Offline, one engine runs the same requests again and again; over HTTP two servers stand side by side, of which one
records. Each round's two figures are compared with one another, so that what slows the machine down slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.bars import Bar, at_most
from benchmarks.machine import describe
from engine.llm import LLM
from engine.request import Event, SamplingParams
from handler.account import Account
from handler.bench import Endpoint, measure, same_requests
from handler.billing.bookkeeper import Bookkeeper, Pace
from handler.billing.identity import identify
from handler.billing.journal import Journal
from handler.billing.lines import Asked, Lines
from handler.billing.price import Price
from handler.billing.recorder import NoRecord, Recorder
from handler.billing.store import open_store
from handler.billing.uploader import Uploader
from handler.epochs import Epochs, Moment

Figures = dict[str, float]
REQUESTS = 48
PROMPT_TOKENS = 256
OUTPUT_TOKENS = 128
"""Shorter than the median request of a conversation (../shared/traces), so that there are more of them to record."""
PORTS = (8471, 8472)
BOOKED = 20_000


def keep_books(folder: Path, ledger: str | None = None, pace: Pace | None = None) -> Bookkeeper:
    """Books as a server keeps them: a journal that is synced, a ledger in a folder unless it is somewhere else."""
    identity = identify()
    journal = Journal(folder / "journal", identity.boot)
    uploader = Uploader(open_store(ledger or f"file://{folder / 'ledger'}"), journal)
    price = Price()
    books = Bookkeeper(
        journal, uploader, Epochs(Moment.now()), lambda epoch: Lines(identity, epoch, "demo", price),
        pace or Pace(), {}, lambda: True,
    )
    books.start()
    books.ready(0, [])
    return books


def run_offline(llm: LLM, recorder: Recorder) -> Figures:
    """All requests at once through the engine, each an account in the books; seconds of processor time come along."""
    params = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True, detokenize=False)
    prompts = [[17 + number, *range(20, 19 + PROMPT_TOKENS)] for number in range(REQUESTS)]
    accounts: dict[str, Account] = {}
    first: list[float] = []
    tokens = 0

    def take(event: Event) -> None:
        nonlocal tokens
        tokens += len(event.token_ids)
        if event.request_id not in accounts:
            accounts[event.request_id] = Account(recorder, Asked(f"{id(accounts)}-{event.request_id}", "warm"), 1)
            accounts[event.request_id].open()
            first.append(time.monotonic() - started)
        if event.finish is not None:
            accounts[event.request_id].see(event.choice, event.finish)

    started, busy = time.monotonic(), time.process_time()
    llm.generate(prompts, params, on_event=take)
    seconds = time.monotonic() - started
    return {
        "tokens_per_s": tokens / seconds, "tokens_per_cpu_s": tokens / (time.process_time() - busy),
        "first_token_s": statistics.median(first),
    }


def offline(rounds: int, folder: Path) -> list[tuple[Figures, Figures]]:
    """Pairs of runs, without books and with, the one that goes first alternating."""
    llm = LLM("demo", skip_tokenizer_init=True, prefix_caching=False, kv_memory=256 * 2**20)
    books = keep_books(folder)
    run_offline(llm, NoRecord())
    pairs = in_turns(rounds, lambda: run_offline(llm, NoRecord()), lambda: run_offline(llm, books))
    assert books.close(30.0)
    return pairs


def over_http(rounds: int, folder: Path) -> list[tuple[Figures, Figures]]:
    """The same against two servers, of which one records."""
    with ExitStack() as stack:
        off = stack.enter_context(serving(PORTS[0], PILOTLIGHT_LEDGER="off"))
        on = stack.enter_context(serving(PORTS[1], PILOTLIGHT_LEDGER=f"file://{folder}", XDG_STATE_HOME=str(folder)))
        return in_turns(rounds, lambda: load(off), lambda: load(on))


def load(server: Server) -> Figures:
    """A burst of requests, eight at once; the server's processor time comes along."""
    busy = server.busy_s
    calls = same_requests("Count from 3 to 33.", 64, 64)
    result = measure(Endpoint(server.url, None, 60.0), calls, 8, lambda count: None)
    assert not result.failed
    tokens = result.output_tokens_per_s * result.seconds
    return {
        "tokens_per_s": result.output_tokens_per_s, "tokens_per_cpu_s": tokens / (server.busy_s - busy),
        "first_token_s": result.ttft_s["p50"] or 0.0,
    }


def in_turns(
    rounds: int, without: Callable[[], Figures], with_books: Callable[[], Figures]
) -> list[tuple[Figures, Figures]]:
    """Pairs (without, with)."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            kept = with_books()
            pairs.append((without(), kept))
        else:
            pairs.append((without(), with_books()))
        print(f"{number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
    return pairs


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str
    process: int

    @property
    def busy_s(self) -> float:
        """Its processor time so far."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(port: int, **environment: str) -> Iterator[Server]:
    """A server with the demo model."""
    command = [sys.executable, "-m", "pilotlight", "serve", "--port", str(port), "--kv-memory", "256MiB"]
    process = subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                if httpx.get(f"{url}/ping").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield Server(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def per_request(folder: Path) -> float:
    """Processor time that the books take for a request, in microseconds, the journal's and the uploads' included."""
    books = keep_books(folder)
    busy = time.process_time()
    book(books, BOOKED)
    assert books.close(60.0)
    return 1e6 * (time.process_time() - busy) / BOOKED


def book(books: Recorder, count: int) -> None:
    """So many requests that come and go at once, a few thousand a second."""
    for number in range(count):
        account = Account(books, Asked(secrets.token_hex(8), "warm", tenant="tenant"), 1)
        account.open()
        account.close()
        if number % 100 == 0:
            time.sleep(0.01)


def outage(folder: Path) -> list[dict[str, float]]:
    """What the books weigh while nothing reaches the ledger: resident memory after each 20,000 requests."""
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"
    }
    books = keep_books(folder, "s3://nowhere/ledger", Pace(0.5))
    found = []
    for fifth in range(6):
        status = books.status
        found.append({"requests": 20_000 * fifth, "rss_mb": resident_mb(), "segments_waiting": status.waiting})
        book(books, 20_000 if fifth < 5 else 0)
    assert not books.close(1.0)
    return found


def resident_mb() -> float:
    """This process's resident memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def compare(pairs: Sequence[tuple[Figures, Figures]]) -> dict[str, Any]:
    """For each figure: the medians of both sides, and quartiles of the pairs' ratios, with to without."""
    found: dict[str, Any] = {}
    for name in pairs[0][0]:
        ratios = [kept[name] / plain[name] for plain, kept in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "without": statistics.median(plain[name] for plain, _ in pairs),
            "with": statistics.median(kept[name] for _, kept in pairs),
            "ratio": {"p25": low, "p50": middle, "p75": high},
        }
    return found


def bars(found: dict[str, Any]) -> list[Bar]:
    """What was promised: under 0.5 % of the output tokens a second, first tokens no later, bounded memory."""
    held = []
    for where in ("offline", "http"):
        lost = 100 * (1 - found[where]["tokens_per_s"]["ratio"]["p50"])
        held.append(at_most(f"{where}: output tokens a second lost, %", lost, 0.5))
        first = found[where]["first_token_s"]["ratio"]
        held.append(at_most(f"{where}: lower quartile of the first token's time, with to without", first["p25"], 1.0))
    grown = found["outage"][-1]["rss_mb"] - found["outage"][1]["rss_mb"]
    held.append(at_most("no ledger: memory grown from 20,000 requests to 100,000, MB", grown, 20))
    for where in ("offline", "http"):
        what = f"{where}: books of a request, % of its processor time"
        held.append(at_most(what, found["share_percent"][where], 0.5))
    return held


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"machine": describe(), "rounds": options.rounds}
        found["offline"] = compare(offline(options.rounds, Path(folder, "offline")))
        found["http"] = compare(over_http(options.rounds, Path(folder, "http")))
        found["us_per_request"] = per_request(Path(folder, "alone"))
        found["outage"] = outage(Path(folder, "outage"))
    found["share_percent"] = {
        where: 100 * found["us_per_request"] * found[where]["tokens_per_cpu_s"]["without"] / 1e6 / tokens
        for where, tokens in (("offline", OUTPUT_TOKENS), ("http", 64))
    }
    held = bars(found)
    print(json.dumps(found, indent=1))
    for bar in held:
        print(f"{'holds ' if bar.holds else 'MISSED'} {bar.what}: {bar.measured:.3f}, bar {bar.bar}")
    if options.json:
        options.json.write_text(json.dumps({**found, "bars": [asdict(bar) for bar in held]}, indent=1) + "\n")
    sys.exit(0 if all(bar.holds for bar in held) else 1)


if __name__ == "__main__":
    main()
