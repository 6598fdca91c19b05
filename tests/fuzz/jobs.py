"""Jobs with any input: each reaches a final state in seconds, and what fails says why in a typed error."""

from __future__ import annotations

import json
from typing import Any

import httpx
from hypothesis import given

from tests.fuzz.effort import effort
from tests.fuzz.job_bodies import BODIES
from tests.fuzz.tally import Tally

HANG_S = 90.0
WAIT_MS = 60_000
"""How long `/runsync` may wait: a job that then is in no final state hangs."""

FINAL = {"COMPLETED", "FAILED", "TIMED_OUT"}
HEADERS = {"Content-Type": "application/json"}


def fuzz_jobs(url: str, cases: int, tally: Tally) -> None:
    """Submit so many jobs, one after the other, to the `/runsync` below `url`."""
    with httpx.Client(base_url=url, timeout=HANG_S, headers=HEADERS) as client:

        @effort(cases)
        @given(body=BODIES)
        def ends(body: bytes) -> None:
            response = tally.time("job", lambda: client.post("/runsync", params={"wait": WAIT_MS}, content=body))
            if response.status_code == 200:
                view = response.json()
                tally.see(view["status"])
                check_view(view)
            else:
                tally.see(response.status_code)
                assert response.status_code in (400, 413), response.text
                assert isinstance(response.json()["error"], str)

        ends()


def check_view(view: dict[str, Any]) -> None:
    """A job has ended; if it failed, by a fault of its own, in OpenAI's words."""
    assert view["status"] in FINAL, view
    if view["status"] == "FAILED":
        error = json.loads(view["error"])
        assert {"message", "type", "param", "code"} <= error.keys()
        assert error["type"] == "invalid_request_error", view
