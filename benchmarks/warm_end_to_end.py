r"""Bursty clients of a local endpoint, once without the warmer and then with it: cold starts, and the bill.

Real workers, the real warmer, minutes squeezed into seconds: bursts some seconds apart, an idle timeout of a second.

    python -m benchmarks.warm_end_to_end --policy fixed:10:12 --policy learned \
        --json benchmarks/results/warm_end_to_end.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from handler.billing.folder_store import FolderStore
from warmup.costs import Costs, Seconds, Starts
from warmup.history import History
from warmup.learning import Digest, Learner
from warmup.plan import Plan
from warmup.policy import Policy, parse_policy
from warmup.simulate.outcome import Period, carry_out
from warmup.simulate.traffic import Traffic

PORT = 8767
PRICE = 0.00031
WAIT_VALUE = 20.0
JOB = {"input": {"messages": [{"role": "user", "content": "Count from 3 to 7."}]}}
SHORTEST_S, LONGEST_S, IN_A_BURST, APART_S = 6.0, 14.0, 3, 0.4


@dataclass(frozen=True)
class Result:
    """A run.

    Attributes:
        cold_starts: starts that a user's request waited for, by the workers' ledger.
        billed_s: by the endpoint's bill; `recorded_s` by the ledger, and `warmup_s` what it marks as warm-ups.
        waited_s: seconds that users' requests took beyond the quickest.
        predicted_s: what the simulator says for the same arrivals.
    """

    policy: str
    requests: int
    cold_starts: int
    billed_s: int
    recorded_s: float
    warmup_s: float
    waited_s: float
    predicted_s: float | None = None
    predicted_cold_starts: int | None = None


class Watched:
    """A policy, and the last plan that it made."""

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self.last = Plan()
        self._policy = policy

    def plan(self, history: History, now: float, costs: Costs) -> Plan:
        """As the policy says."""
        self.last = self._policy.plan(history, now, costs)
        return self.last


def main() -> None:
    """Run without and with, print what came of each, and fail where the warmer was not worth it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", action="append")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for result in compare(options.policy or ["fixed:10:12"], options.seconds):
        results.append(result)
        print(json.dumps(asdict(result)), flush=True)
    if options.json:
        summary = {"seconds": options.seconds, "price": PRICE, "runs": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    if problems := [problem for result in results[1:] for problem in faults(results[0], result)]:
        sys.exit("; ".join(problems))


def compare(policies: Sequence[str], seconds: float, seed: int = 7) -> Iterator[Result]:
    """The run without, then one for each policy, on the same bursts."""
    offsets = bursts(seconds, seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plain, arrivals, digest = run(root / "never", offsets, None)
        yield plain
        for number, policy in enumerate(policies):
            state = root / f"warm-{number}"
            shutil.copytree(root / "never" / "ledger", state / "ledger")
            found, times, _ = run(state, offsets, policy)
            yield predicted(found, policy, times, digest, arrivals)


def bursts(seconds: float, seed: int) -> list[float]:
    """Seconds from the beginning at which requests come."""
    draw, now, found = random.Random(seed), 2.0, []
    while now < seconds:
        found += [now + APART_S * number for number in range(IN_A_BURST)]
        now += draw.uniform(SHORTEST_S, LONGEST_S)
    return found


def run(state: Path, offsets: Sequence[float], policy: str | None) -> tuple[Result, list[float], Digest]:
    """Serve the arrivals once; gives also when they came, and what the ledger then holds."""
    with endpoint(state) as url, warmer(state, url, policy):
        began = time.time()
        took = send(url, began, offsets)
        time.sleep(0.0 if policy is None else stay(policy))
    digest = read(state)
    times = [began + offset for offset in offsets]
    billed = [json.loads(line) for line in (state / "bill.jsonl").read_text().splitlines()]
    recent = [at for at in digest.cold.values() if at >= began - 5]
    waited = sum(took) - len(took) * min(took)
    seconds = sum(line["seconds"] for line in billed if line["event"] == "stop")
    recorded = recorded_s(state, began - 1)  # What the run before left in the ledger is older.
    found = Result(
        policy or "never", len(took), len(recent), seconds, recorded["total"], recorded["warmup"], round(waited, 3)
    )
    return found, times, digest


def predicted(found: Result, policy: str, times: list[float], before: Digest, trained_on: list[float]) -> Result:
    """The run with what the simulator says of it, given what was known before."""
    services = [0.1] * (len(trained_on) + len(times))
    history = History.of([*trained_on, *times], services)
    cold = sorted(ready for _, ready, _ in before.boots.values())
    costs = Costs(PRICE, WAIT_VALUE, Starts(Seconds.constant(cold[len(cold) // 2])))
    period = Period(times[0] - 2.0, times[-1] + 0.1)
    chosen = Watched(parse_policy(policy))
    outcome = carry_out(chosen, history, Traffic.of(history.since(period.begin)), costs, period)
    # The real worker is let go sooner after its last work than the simulated one.
    tail = max(0.0, chosen.last.stays[0] - stay(policy))
    return replace(found, predicted_s=outcome.billed_s - tail, predicted_cold_starts=outcome.cold_starts)


def faults(plain: Result, warm: Result) -> list[str]:
    """What is not as it should be."""
    found = []
    if warm.cold_starts > 0.2 * plain.cold_starts:
        found.append(f"{warm.policy}: {warm.cold_starts} cold starts, and {plain.cold_starts} without it")
    assert warm.predicted_s is not None
    if abs(warm.billed_s - warm.predicted_s) > 0.1 * warm.predicted_s:
        found.append(f"{warm.policy}: {warm.billed_s} s billed, and {warm.predicted_s:.0f} s foretold")
    return found


def stay(policy: str) -> float:
    """How long the real worker is given after the last request."""
    parts = policy.split(":")
    return float(parts[-1]) if len(parts) > 1 and parts[0] in ("idle", "fixed") else LONGEST_S


def send(url: str, began: float, offsets: Sequence[float]) -> list[float]:
    """Send a request at each moment; gives the seconds that each took."""
    took = [0.0] * len(offsets)

    def one(place: int) -> None:
        at = time.monotonic()
        httpx.post(f"{url}/v2/local/runsync", json=JOB, timeout=120).raise_for_status()
        took[place] = time.monotonic() - at

    threads = []
    for place, offset in enumerate(offsets):
        time.sleep(max(0.0, began + offset - time.time()))
        threads.append(threading.Thread(target=one, args=(place,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return took


@contextmanager
def endpoint(state: Path) -> Iterator[str]:
    """`pilotlight up` with one worker at most; ends it, so that bill and ledger are whole."""
    url = f"http://127.0.0.1:{PORT}"
    command = ["up", "--port", str(PORT), "--state", str(state), "--idle-timeout", "1", "--workers-max", "1"]
    variables = {"PILOTLIGHT_OPEN_INTERVAL": "2", "PILOTLIGHT_KV_MEMORY": "64MiB"}
    with process(*command, "--gpu-price", str(PRICE), **variables) as popen:
        while True:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                assert popen.poll() is None, "the endpoint has ended"
                time.sleep(0.2)
        yield url


@contextmanager
def warmer(state: Path, url: str, policy: str | None) -> Iterator[None]:
    """`pilotlight warm run`, or nothing."""
    if policy is None:
        yield
        return
    variables = {
        "PILOTLIGHT_RUNPOD_API": f"{url}/v2", "RUNPOD_ENDPOINT_BASE_URL": f"{url}/v2", "RUNPOD_API_KEY": "none",
    }
    options = ("--endpoint", "local", "--policy", policy, "--price", str(PRICE), "--wait-value", str(WAIT_VALUE))
    places = ("--state", str(state / "warmer"), "--ledger", str(state / "ledger"))
    with process("warm", "run", *options, *places, "--tick", "0.25", **variables):
        yield


@contextmanager
def process(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours, told to end afterwards."""
    with subprocess.Popen([sys.executable, "-m", "pilotlight", *arguments], env={**os.environ, **variables}) as popen:
        try:
            yield popen
        finally:
            popen.send_signal(signal.SIGTERM)
            popen.wait(60)


def read(state: Path) -> Digest:
    """What the warmer would learn from the ledger."""
    learner = Learner(FolderStore(state / "ledger"), "local")
    learner.learn(time.time())
    return learner.digest


def recorded_s(state: Path, since: float) -> dict[str, float]:
    """Billed seconds by the workers' own books: all, and by what they were for."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    command = ["-m", "pilotlight", "bill", "report", "--json", "--since", moment, "--from", str(state / "ledger")]
    report: Any = json.loads(subprocess.run([sys.executable, *command], capture_output=True, check=True).stdout)
    return {name: float(seconds) for name, seconds in report["seconds"].items()}


if __name__ == "__main__":
    main()
