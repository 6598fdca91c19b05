"""The load-balancing endpoint: requests go to healthy workers, wait for the first, and stay with one if they like."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from handler.local import load_balancer
from handler.local.job import Asked
from handler.local.load_balancer import LoadBalancer, NoWorker, Wish, WorkerGone
from handler.local.probing import probe
from handler.local.worker import WorkerState
from tests.handler.brake import Brake
from tests.handler.processes import eventually
from tests.local.crew import PATIENT, crew
from tests.local.up_process import COUNTED, MESSAGES, up

HEADER = "X-Runpod-Worker-Id"
CHAT = {"model": "demo", "messages": MESSAGES, "temperature": 0}
LASTS = ("--mode", "load-balancer", "--idle-timeout", "3600")
"""Workers stay, however long the machine takes between two requests."""
LONG = {**CHAT, "max_tokens": 1500, "ignore_eos": True, "stream": True}


# Who gets a request.


def balancer(*healthy: str) -> LoadBalancer:
    made = LoadBalancer()
    for worker_id in healthy:
        made.serves(worker_id, True)
    return made


def test_the_worker_with_the_fewest_requests_is_chosen() -> None:
    async def test() -> None:
        balanced = balancer("a", "b")
        async with balanced.worker() as first, balanced.worker() as second:
            assert {first, second} == {"a", "b"}
            assert balanced.counts().in_progress == 2
        assert balanced.counts().completed == 2

    asyncio.run(test())


def test_a_request_waits_for_the_first_worker_that_is_healthy() -> None:
    async def test() -> None:
        balanced = LoadBalancer()

        async def ask() -> str:
            async with balanced.worker() as worker_id:
                return worker_id

        asked = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        assert balanced.counts().in_queue == 1
        assert balanced.oldest_wait_s() > 0.01
        balanced.serves("a", False)
        await asyncio.sleep(0.05)
        assert not asked.done()
        balanced.serves("a", True)
        assert await asked == "a"

    asyncio.run(test())


def test_an_unhealthy_or_retired_worker_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_balancer, "WAIT_S", 0.1)

    async def test() -> None:
        balanced = balancer("a", "b")
        balanced.serves("a", False)
        balanced.retire("b")
        with pytest.raises(NoWorker, match="no workers available"):
            async with balanced.worker():
                pass
        assert balanced.counts().in_queue == 0
        balanced.employ("b")
        balanced.serves("b", True)
        async with balanced.worker() as chosen:
            assert chosen == "b"

    asyncio.run(test())


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("", None), ("  ", None), ("w1", Wish("w1")), ("strict w1", Wish("w1", "strict")),
        ("strict-resume w1", Wish("w1", "strict-resume")), ("other w1", Wish("w1")),
    ],
)
def test_the_header_says_which_worker_is_wanted(header: str, wish: Wish | None) -> None:
    assert Wish.read(header) == wish


def test_a_wish_is_kept_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_balancer, "AFFINITY_WAIT_S", 0.1)

    async def chosen(balanced: LoadBalancer, wish: Wish) -> str:
        async with balanced.worker(wish) as worker_id:
            return worker_id

    async def test() -> None:
        balanced = balancer("a", "b")
        assert [await chosen(balanced, Wish("b")) for _ in range(3)] == ["b"] * 3
        assert await chosen(balanced, Wish("gone")) in ("a", "b")
        with pytest.raises(WorkerGone):
            await chosen(balanced, Wish("gone", "strict"))
        balanced.serves("b", False)
        with pytest.raises(NoWorker, match="timed out waiting for worker"):
            await chosen(balanced, Wish("b", "strict"))
        balanced.retire("b")
        with pytest.raises(WorkerGone):
            await chosen(balanced, Wish("b", "strict"))

    asyncio.run(test())


def test_a_worker_that_is_told_to_end_while_it_says_that_it_is_well_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_balancer, "WAIT_S", 0.1)
    well = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def test() -> None:
        balanced = LoadBalancer()
        async with crew(tmp_path, PATIENT) as endpoint, httpx.AsyncClient() as client:
            endpoint.queue.submit(Asked({}))
            worker = await endpoint.started()
            asked = asyncio.Event()

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                worker.enter(WorkerState.STOPPING)
                writer.write(well)
                writer.close()
                asked.set()

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            worker.port = server.sockets[0].getsockname()[1]
            probing = asyncio.create_task(probe(endpoint.workers, balanced, client))
            await asked.wait()
            with pytest.raises(NoWorker):
                async with balanced.worker():
                    pass
            probing.cancel()
            server.close()

    asyncio.run(test())


# The whole of it, with real workers.


def test_openais_client_from_zero_and_affinity() -> None:
    with up(*LASTS) as endpoint:
        with OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
            raw = client.chat.completions.with_raw_response.create(**CHAT)  # type: ignore[call-overload]
            assert raw.parse().choices[0].message.content == COUNTED
            stream = client.chat.completions.create(**CHAT, stream=True)  # type: ignore[call-overload]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == COUNTED
        worker = raw.headers[HEADER]
        [listed] = endpoint.get("/v2/serverless/local/workers")["workers"]
        assert worker == listed["id"]
        with endpoint.client() as http:
            assert http.get("/ping", headers={HEADER: f"strict {worker}"}).headers[HEADER] == worker
            gone = http.get("/ping", headers={HEADER: "strict worker-gone"})
            assert (gone.status_code, gone.json()) == (404, {"error": "affinity_worker_gone"})
            assert http.get("/v1/nothing?a=b").json()["error"]["message"] == "there is no route GET /v1/nothing"
            asked = http.get("/v1/models/a%3Fb%09c%2520?d=e").json()["error"]["message"]
            assert "'a?b\\tc%20'" in asked
            assert http.post("/v1/completions", content=b" " * 30_000_001).status_code == 413
        assert eventually(lambda: "import torch" in endpoint.output)
        endpoint.keep_idle(1)
        assert eventually(lambda: endpoint.get("/v2/serverless/local/workers")["summary"]["total"] == 0)


@pytest.fixture
def brake(tmp_path: Path) -> Brake:
    return Brake(tmp_path)


def test_requests_make_workers_and_a_killed_one_is_replaced(brake: Brake) -> None:
    with up(*LASTS, "--scaler-value", "1", "--workers-max", "2", **brake.environment) as endpoint, brake.held():
        read = [0, 0]
        threads = [threading.Thread(target=stream_into, args=(read, place, endpoint.url)) for place in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: endpoint.output.count(" starts (pid") == 2)
        brake.off()
        assert eventually(lambda: sum(read) > 0)
        for pid in re.findall(r"starts \(pid (\d+)\)", endpoint.output):
            os.kill(int(pid), signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a stream ends when its worker does"
        with endpoint.client() as http:
            answer = http.post("/v1/chat/completions", json=CHAT)
        assert answer.json()["choices"][0]["message"]["content"] == COUNTED
        assert endpoint.output.count(" starts (pid") >= 3


def test_a_stream_whose_worker_dies_is_cut_and_the_log_says_so_in_one_line(brake: Brake) -> None:
    with up(*LASTS, "--workers-max", "1", **brake.environment) as endpoint, endpoint.client() as http:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        brake.on()
        with http.stream("POST", "/v1/chat/completions", json=LONG) as answer:
            lines = answer.iter_lines()
            assert next(lines)
            [pid] = re.findall(r"starts \(pid (\d+)\)", endpoint.output)
            os.kill(int(pid), signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                list(lines)
        assert eventually(lambda: "was ended by SIGKILL" in endpoint.output)
        worker = answer.headers[HEADER]
        assert len(re.findall(f"WARNING .*{worker} broke off its answer", endpoint.output)) == 1
        told = [line for line in endpoint.output.splitlines() if not line.startswith(("INFO", "WARNING"))]
        assert told == []


def test_who_hangs_up_ends_what_the_worker_does_for_him(brake: Brake) -> None:
    with up(*LASTS, "--workers-max", "1", **brake.environment) as endpoint, endpoint.client() as http:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        brake.on()
        gone = HTTPConnection(endpoint.url.removeprefix("http://"))
        body = json.dumps({**LONG, "max_tokens": 1900, "stream": False})
        gone.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        assert eventually(lambda: re.search(r"num_requests_running\S* 1", http.get("/metrics").text))
        gone.close()
        assert eventually(lambda: re.search(r'success_total\S*"abort"\S* 1', http.get("/metrics").text))


def stream_into(read: list[int], place: int, url: str) -> None:
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=LONG, timeout=60) as answer:
            for line in answer.iter_lines():
                read[place] += bool(line)
    except httpx.HTTPError:
        read[place] += 1


def test_a_frozen_worker_is_resumed_for_who_wants_it() -> None:
    with up("--mode", "load-balancer", "--flashboot", "--idle-timeout", "1") as endpoint, endpoint.client() as http:
        worker = http.post("/v1/chat/completions", json=CHAT).headers[HEADER]
        assert eventually(lambda: "is frozen" in endpoint.output)
        strict = http.get("/ping", headers={HEADER: f"strict {worker}"})
        assert strict.status_code == 404
        resumed = http.get("/ping", headers={HEADER: f"strict-resume {worker}"})
        assert (resumed.status_code, resumed.headers[HEADER]) == (200, worker)
        assert endpoint.output.count(" starts (pid") == 1
