"""Asks load-balanced workers after their health, as RunPod's platform does."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx

from handler.local.load_balancer import LoadBalancer
from handler.local.worker import Worker, WorkerState
from handler.local.workers import Workers

EVERY_S: Final = 0.2
"""Between two questions to one worker."""

_ANSWER_S: Final = 2.0

_ASKED: Final = (WorkerState.INITIALIZING, WorkerState.IDLE, WorkerState.RUNNING)


async def probe(workers: Workers, balancer: LoadBalancer, client: httpx.AsyncClient) -> None:
    """Keep asking all of them, for ever. 200: it serves; 204: it boots; anything else: it is given no requests."""
    while True:
        asked = [worker for worker in workers if worker.state in _ASKED]
        await asyncio.gather(*(_ask(worker, workers, balancer, client) for worker in asked))
        await asyncio.sleep(EVERY_S)


async def _ask(worker: Worker, workers: Workers, balancer: LoadBalancer, client: httpx.AsyncClient) -> None:
    try:
        status = (await client.get(f"{worker.url}/ping", timeout=_ANSWER_S)).status_code
    except httpx.HTTPError:
        status = None
    if worker.over.is_set() or worker.state not in _ASKED:  # It has ended, or is to, since it was asked.
        return
    if status in (httpx.codes.OK, httpx.codes.NO_CONTENT):
        workers.pinged(worker.id, (), None)
    if status == httpx.codes.OK:
        workers.asks_for_jobs(worker.id)
    balancer.serves(worker.id, status == httpx.codes.OK)
