"""Where a worker finds its endpoint, told as RunPod tells it."""

from __future__ import annotations

from typing import Final

from handler.local.contracts import ENDPOINT_ID

GPU: Final = "local"
"""The GPU's name in the addresses' query. RunPod's SDK appends to it with `&`, so there must be a query."""


def worker_environment(base_url: str, worker_id: str, key: str, ping_s: int) -> dict[str, str]:
    """The variables that RunPod sets for a worker.

    Args:
        base_url: of the control plane, without a path, e.g. `http://127.0.0.1:8000`.
        key: what the worker shows with each call, bare.
        ping_s: seconds between two signs of life; whole, because the SDK divides its milliseconds by 1000 and drops
            the rest.
    """
    assert ping_s >= 1
    base = f"{base_url}/v2/{ENDPOINT_ID}"
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu={GPU}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu={GPU}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu={GPU}",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        "RUNPOD_AI_API_KEY": key,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_ENDPOINT_ID": ENDPOINT_ID,
        "RUNPOD_PING_INTERVAL": str(1000 * ping_s),
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    }
