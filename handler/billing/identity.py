"""Who is billed: this worker, as its lines name it."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

_WEBHOOKS = ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_WEBHOOK_POST_OUTPUT")


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker's life.

    Attributes:
        endpoint: `local` where no platform names one.
        worker: the platform's name of the worker, or the machine's.
        boot: names this process, never another: when it started, and chance.
        gpu: the device's name as RunPod writes it, None where there is none or it is not told.
        gpu_count: how many of them one worker has.
        region: the data centre; None where it is not told.
    """

    endpoint: str
    worker: str
    boot: str
    gpu: str | None = None
    gpu_count: int = 1
    region: str | None = None


def identify(environment: Mapping[str, str] = os.environ, now: float | None = None) -> Identity:
    """Read what RunPod tells its workers.

    Args:
        now: seconds since 1970 of the process's start; default: the present.
    """
    started = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() if now is None else now))
    count = environment.get("RUNPOD_GPU_COUNT", "")
    return Identity(
        environment.get("RUNPOD_ENDPOINT_ID") or "local",
        environment.get("RUNPOD_POD_ID") or socket.gethostname() or "unknown",
        f"{started}-{secrets.token_hex(4)}",
        _gpu(environment),
        int(count) if count.isdecimal() and int(count) else 1,
        environment.get("RUNPOD_DC_ID") or None,
    )


def _gpu(environment: Mapping[str, str]) -> str | None:
    """The GPU's name: every address that RunPod gives a worker has it in its query."""
    named = environment.get("PILOTLIGHT_GPU") or environment.get("RUNPOD_GPU_TYPE_ID")
    if named:
        return named
    for webhook in _WEBHOOKS:
        if found := parse_qs(urlsplit(environment.get(webhook, "")).query).get("gpu"):
            return found[0]
    return None
