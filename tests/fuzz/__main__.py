"""The long fuzzing: so many cases of each campaign, drawn anew, and its figures into a file.

    python -m tests.fuzz --cases 2000 --json benchmarks/results/fuzz.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.fuzz.connections import fuzz_connections
from tests.fuzz.effort import VARIABLE
from tests.fuzz.jobs import fuzz_jobs
from tests.fuzz.operations import fuzz_operations, read_document
from tests.fuzz.tally import Tally
from tests.fuzz.targets import check_endpoint, check_server, target_endpoint, target_server

Campaign = Callable[[str, int, Tally], None]

SERVE: Mapping[str, Campaign] = {
    "serve: operations": lambda url, cases, tally: fuzz_operations(read_document(url), cases, tally),
    "serve: jobs": fuzz_jobs,
    "serve: connections": fuzz_connections,
}
UP: Mapping[str, Campaign] = {
    "up: jobs": lambda url, cases, tally: fuzz_jobs(f"{url}/v2/local", cases, tally),
    "up: operations": lambda url, cases, tally: fuzz_operations(read_document(url), cases, tally),
}


def main() -> None:
    """Run the campaigns whose names begin as asked; the first failure ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--only", default="", help="names of campaigns that begin so")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/fuzz.json"))
    asked = parser.parse_args()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ[VARIABLE] = str(asked.cases)
    for name in (name for name in (*SERVE, *UP) if name.startswith(asked.only)):
        known = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        asked.json.write_text(json.dumps({**known, name: _run(name, asked.cases)}, indent=1) + "\n")


def _run(name: str, cases: int) -> dict[str, Any]:
    """The figures of one campaign, on a server of its own."""
    console = Console(stderr=True)
    with console.status(name):
        figures = _fuzz_server(SERVE[name], cases) if name in SERVE else _fuzz_endpoint(UP[name], cases)
    console.print(f"{name}: {figures['cases']} cases, {figures['seconds']} s, slowest {figures['slowest_s']} s")
    return figures


def _fuzz_server(campaign: Campaign, cases: int) -> dict[str, Any]:
    with target_server() as server:
        tally = Tally()
        campaign(server.url, cases, tally)
        check_server(server)
        return tally.as_dict()


def _fuzz_endpoint(campaign: Campaign, cases: int) -> dict[str, Any]:
    with target_endpoint() as endpoint:
        tally = Tally()
        campaign(endpoint.url, cases, tally)
        check_endpoint(endpoint)
        return tally.as_dict()


if __name__ == "__main__":
    main()
