"""What was acknowledged is there again, whatever ended the control plane."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import InvalidConfig
from handler.local import write_ahead
from handler.local.app import open_queue
from handler.local.job import Asked
from handler.local.queue import JobQueue
from handler.local.record import RecordFailed
from handler.local.write_ahead import WriteAhead, read
from tests.disks import small_files
from tests.handler.processes import Process, eventually, free_port, running
from tests.local.endpoint import KEY, HandWorker


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def ran() -> None:
        await work()

    asyncio.run(ran())


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Process, str]]:
    port = free_port()
    with running(Process, "-m", "tests.local.plane", str(port), str(folder)) as plane:
        url = f"http://127.0.0.1:{port}/v2/local"

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{url}/health").status_code == 200
            return False

        assert eventually(answers), plane.output
        yield plane, url


def jobs_in(answer: httpx.Response) -> list[dict[str, Any]]:
    """None where none came in time."""
    return answer.json() if answer.status_code == 200 else []


class Traffic:
    """A client and a worker that go on until the control plane is gone, and note what it has acknowledged."""

    def __init__(self) -> None:
        self.queued: set[str] = set()
        self.results: dict[str, str] = {}

    def submit(self, url: str) -> None:
        with suppress(httpx.TransportError), httpx.Client(base_url=url, timeout=60) as http:
            for number in range(1_000_000):
                job = http.post("/run", json={"input": {"number": number, "text": "long " * 200}}).json()
                self.queued.add(job["id"])

    def work(self, url: str) -> None:
        headers = {"Authorization": KEY}
        with suppress(httpx.TransportError), httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            worker = HandWorker(http, "pod1")
            while True:
                for job in jobs_in(worker.take(4)):
                    output = f"result of {job['id']}"
                    if worker.done(job["id"], output=output).status_code == 200:
                        self.results[job["id"]] = output

    def until_killed(self, plane: Process, url: str, results: int) -> None:
        """Kill it amid its work, once so many more results are acknowledged."""
        enough = len(self.results) + results
        threads = [threading.Thread(target=act, args=(url,)) for act in (self.submit, self.submit, self.work)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: len(self.results) >= enough), plane.output
        plane.stop(signal.SIGKILL)
        for thread in threads:
            thread.join(60)


def test_kill_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    traffic, moments = Traffic(), random.Random(6)
    for _ in range(4):
        with serving(tmp_path) as (plane, url):
            traffic.until_killed(plane, url, moments.randint(1, 40))
    with serving(tmp_path) as (_, url), httpx.Client(base_url=url, timeout=60) as http:
        for job_id, output in traffic.results.items():
            shown = http.get(f"/status/{job_id}").json()
            assert (shown["status"], shown["output"]) == ("COMPLETED", output)
        waiting = {job["id"] for job in http.get("/requests").json()["requests"] if job["status"] == "IN_QUEUE"}
        assert waiting >= traffic.queued - traffic.results.keys() - ended(http, traffic.queued)


def ended(http: httpx.Client, ids: set[str]) -> set[str]:
    """Those whose end was kept though its acknowledgement came to nobody."""
    return {job_id for job_id in ids if http.get(f"/status/{job_id}").json()["status"] == "COMPLETED"}


def test_a_torn_tail_and_a_damaged_entry_are_dropped_and_all_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"

    async def write() -> None:
        record = WriteAhead(path)
        record.rewrite([])
        for number in range(3):
            record.write({"kind": "told", "job": str(number)})
        await record.close()

    run(write)
    whole = path.read_bytes()
    line = len(whole) // 3
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert [entry["job"] for entry in read(path)] == ["0", "1", "2"][: size // line]
    path.write_bytes(whole[:line] + b"?" + whole[line + 1 :])
    assert [entry["job"] for entry in read(path)] == ["0", "2"]


def test_whichever_entry_is_damaged_the_other_jobs_are_there(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"

    async def work() -> None:
        async with open_queue(tmp_path) as queue:
            again, other = (queue.submit(Asked(number)) for number in range(2))
            for _ in range(2):
                queue.take_now("a", 2)
                queue.finish(again.id, "a", {}, "broken")
                queue.retry(again.id)
            queue.cancel(other.id)
            queue.submit(Asked("last"))
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == 8
        for damaged in range(len(lines)):
            path.write_bytes(b"".join(b"?" + line[1:] if at == damaged else line for at, line in enumerate(lines)))
            async with open_queue(tmp_path) as queue:
                assert len(list(queue.jobs())) >= 2

    run(work)


def test_a_queue_is_there_again_with_its_order_its_policies_and_its_results(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_queue(tmp_path) as queue:
            jobs = [queue.submit(Asked({"number": number})) for number in range(4)]
            queue.take_now("a", 2)
            queue.stream(jobs[0].id, "a", "part")
            queue.finish(jobs[0].id, "a", {"all": 1}, "broken")
            before = jobs[0].view()
        async with open_queue(tmp_path) as queue:
            assert queue.get(jobs[0].id).view() == before
            assert queue.get(jobs[0].id).chunks == ["part"]
            taken = queue.take_now("b", 9)
            assert [(job.id, job.asked) for job in taken] == [(job.id, job.asked) for job in jobs[1:]]

    run(work)


def test_the_file_is_written_anew_when_most_of_it_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "SLACK", 20_000)
    monkeypatch.setattr("handler.local.queue.KEPT_JOBS", 3)

    async def work() -> None:
        async with open_queue(tmp_path) as queue:
            waiting = queue.submit(Asked("x"))
            for _ in range(200):
                queue.cancel(queue.submit(Asked("y" * 500)).id)
                await queue.written()
            assert (tmp_path / "jobs.jsonl").stat().st_size < 60_000
            kept = [job.id for job in queue.jobs()]
        async with open_queue(tmp_path) as queue:
            assert [job.id for job in queue.jobs()] == kept
            assert queue.take_now("a", 9)[0].id == waiting.id

    run(work)


def test_a_full_disk_is_said_and_overcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead, "RETRY_S", 0.05)

    async def work() -> None:
        async with open_queue(tmp_path) as queue:
            first = queue.submit(Asked("small"))
            await queue.written()
            with small_files((tmp_path / "jobs.jsonl").stat().st_size + 1000):
                second = queue.submit(Asked("large" * 1000))
                with pytest.raises(RecordFailed, match=r"jobs\.jsonl: File too large"):
                    await queue.written()
            async with asyncio.timeout(60):
                while True:
                    with suppress(RecordFailed):
                        await queue.written()
                        break
        assert [entry["job"] for entry in read(tmp_path / "jobs.jsonl")] == [first.id, second.id]

    run(work)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_full_disk_has_taken_of_a_new_file_is_given_back(tmp_path: Path) -> None:
    async def work() -> None:
        record = WriteAhead(tmp_path / "jobs.jsonl")
        record.rewrite([{"kind": "told", "job": "1"}])
        await record.written()
        with small_files(5000):
            record.rewrite([{"kind": "told", "job": "x" * 9000}])
            with pytest.raises(RecordFailed):
                await record.written()
            assert names_in(tmp_path) == ["jobs.jsonl"]
        await record.written()
        await record.close()
        assert len(read(tmp_path / "jobs.jsonl")[0]["job"]) == 9000

    run(work)


def test_only_one_endpoint_has_the_folder(tmp_path: Path) -> None:
    async def work() -> None:
        async with open_queue(tmp_path):
            with pytest.raises(InvalidConfig, match="another endpoint"):
                async with open_queue(tmp_path):
                    pass
        with pytest.raises(InvalidConfig, match="Not a directory"):
            async with open_queue(tmp_path / "jobs.jsonl" / "below"):
                pass

    run(work)


def test_without_a_folder_nothing_is_kept() -> None:
    async def work() -> None:
        async with open_queue() as queue:
            assert isinstance(queue, JobQueue)
            queue.submit(Asked(1))
            await queue.written()

    run(work)
