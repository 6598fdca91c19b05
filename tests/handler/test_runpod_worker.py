"""`python -m handler` under RunPod's own SDK, against a small control plane."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.handler.brake import Brake
from tests.handler.control_plane import ControlPlane
from tests.handler.processes import Process, eventually, free_port, running

MESSAGES = [{"role": "user", "content": "Count from 3 to 7."}]
TEMPLATE = "<|begin_of_text|><|user|>Count from 3 to 7.<|end_of_turn|><|assistant|>"
COUNTED = "3 4 5 6 7"
SECRET = "xylophone"
FAULTY = str(Path(__file__).parent / "faulty.py")
WINDOW_S = 0.04
"""A worker's `job_batch_ms`."""
LONG = {"messages": MESSAGES, "ignore_eos": True, "max_tokens": 2000, "stream": True}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane().listening() as listening:
        yield listening
    assert listening.faults == []


@pytest.fixture(scope="module")
def brake(tmp_path_factory: pytest.TempPathFactory) -> Brake:
    return Brake(tmp_path_factory.mktemp("brake"))


@pytest.fixture(scope="module")
def worker(plane: ControlPlane, brake: Brake) -> Iterator[Process]:
    with running(Process, "-m", "handler", environment={**plane.environment(), **brake.environment}) as process:
        yield process


@pytest.fixture
def own_plane() -> Iterator[ControlPlane]:
    """One whose jobs no other test's worker takes."""
    with ControlPlane().listening() as listening:
        yield listening


def openai_job(stream: bool = False, route: str = "/v1/chat/completions", **body: object) -> dict[str, Any]:
    return {"openai_route": route, "openai_input": {"model": "demo", "stream": stream, **body}}


def sse(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_warm_up_generates_nothing(plane: ControlPlane, worker: Process) -> None:
    result = plane.run("warm", {"warmup": True})
    assert result.done is not None
    [output] = result.done["output"]
    assert output["warmup"] is True
    assert output["ready_s"] > 0


def test_whole_chat(plane: ControlPlane, worker: Process) -> None:
    result = plane.run("whole", openai_job(messages=MESSAGES))
    assert result.done is not None
    [answer] = result.done["output"]
    assert answer["choices"][0]["message"]["content"] == COUNTED
    assert result.streamed == [answer]
    assert result.is_stream == "true"


def test_streamed_chat_is_sse_text_in_few_posts(plane: ControlPlane, worker: Process) -> None:
    result = plane.run("streamed", openai_job(True, messages=[{"role": "user", "content": "Count from 3 to 30."}]))
    chunks = sse("".join(result.streamed))
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == " ".join(map(str, range(3, 31)))
    assert len(result.streamed) < 3 + (result.done_at - plane.handed["streamed"]) / WINDOW_S, "tokens are gathered"
    assert result.done == {"output": result.streamed}


def test_models_and_completions_routes(plane: ControlPlane, worker: Process) -> None:
    models = plane.run("models", {"openai_route": "/v1/models", "openai_input": {}}).done
    assert models is not None
    assert models["output"][0]["data"][0]["id"] == "demo"
    completion = plane.run("text", openai_job(route="/v1/completions", prompt=TEMPLATE)).done
    assert completion is not None
    assert completion["output"][0]["choices"][0]["text"] == COUNTED


@pytest.mark.parametrize("prompt", [{"prompt": TEMPLATE}, {"messages": MESSAGES}], ids=["prompt", "messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_vllm_workers_own_shape(
    plane: ControlPlane, worker: Process, prompt: dict[str, object], stream: bool
) -> None:
    given = {**prompt, "sampling_params": {"temperature": 0, "max_tokens": 16}, "stream": stream}
    done = plane.run(f"text {stream} {list(prompt)}", given).done
    assert done is not None
    assert len(done["output"]) == 1 or stream
    texts = [token for output in done["output"] for choice in output["choices"] for token in choice["tokens"]]
    assert "".join(texts) == COUNTED
    assert done["output"][-1]["usage"]["output"] == 6


def test_a_stream_begins_before_its_end(plane: ControlPlane, worker: Process, brake: Brake) -> None:
    with brake.held():
        plane.put("begun", {"messages": MESSAGES, "sampling_params": {"ignore_eos": True, "max_tokens": 200},
                            "stream": True})
        assert eventually(lambda: plane.results["begun"].streamed)
    assert plane.ended("begun")
    assert len(plane.results["begun"].streamed) > 1


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, "object"),
        ({}, "prompt or messages"),
        ({"prompt": "a", "frobnicate": 1}, "frobnicate"),
        ({"prompt": "a", "sampling_params": {"temperature": -1}}, "temperature"),
        (openai_job(messages=MESSAGES, max_tokens=-1), "max_tokens"),
        (openai_job(route="/v1/embeddings"), "/v1/embeddings"),
        ({"prompt": "a", "sampling_params": {"logprobs": 1}}, "logprobs"),
        ({"warmup": False}, "warmup"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_errors_are_json_text(plane: ControlPlane, worker: Process, given: object, names: str) -> None:
    done = plane.run(f"bad {names.replace('/', ' ')}", given).done
    assert done is not None
    assert set(done) == {"error"}
    error = json.loads(done["error"])
    assert names in error["message"]
    assert error["type"] == "invalid_request_error"


def test_stopped_job_is_aborted(plane: ControlPlane, worker: Process, brake: Brake) -> None:
    with brake.held():
        plane.put("stopped", {"openai_route": "/v1/chat/completions", "openai_input": LONG})
        assert eventually(lambda: plane.results["stopped"].streamed)
        plane.stop_job("stopped")
        assert eventually(lambda: "Job stopped" in worker.output)
    posted = len(plane.results["stopped"].streamed)
    plane.run("after", {"warmup": True})
    assert len(plane.results["stopped"].streamed) <= posted + 1
    assert plane.results["stopped"].done is None


def test_jobs_run_at_once(plane: ControlPlane, worker: Process) -> None:
    names = [f"many {number}" for number in range(20)]
    for number, name in enumerate(names):
        prompt = [{"role": "user", "content": f"Count from {number} to {number + 5}."}]
        plane.put(name, openai_job(messages=prompt))
    assert eventually(lambda: all(plane.results[name].done for name in names))
    right = 0
    for number, name in enumerate(names):
        done = plane.results[name].done
        assert done is not None
        content = done["output"][0]["choices"][0]["message"]["content"]
        right += content == " ".join(str(n) for n in range(number, number + 6))
    assert right == 20


def test_prompts_and_answers_stay_out_of_the_log(plane: ControlPlane, worker: Process) -> None:
    plane.run("secret", openai_job(messages=[{"role": "user", "content": f"Repeat: {SECRET}"}]))
    plane.run("bad secret", openai_job(messages=SECRET))
    assert "secret" in worker.output, "the log tells of the job"
    assert SECRET not in worker.output


def test_heartbeat_ends_with_the_worker(own_plane: ControlPlane) -> None:
    with running(Process, "-m", "handler", environment=own_plane.environment()) as worker:
        assert eventually(lambda: own_plane.pings)
        [heartbeat] = children_of(worker.popen.pid)
        worker.stop(signal.SIGKILL)
        assert eventually(lambda: not is_alive(heartbeat))


def children_of(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [int(child) for child in listed.split()]


def is_alive(process: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_device_error_fails_the_job_and_ends_the_worker(own_plane: ControlPlane) -> None:
    with running(Process, FAULTY, "work", environment=own_plane.environment()) as process:
        done = own_plane.run("lost", openai_job(messages=MESSAGES, seed=666)).done
        assert done is not None
        assert "device" in json.loads(done["error"])["message"]
        assert process.wait() == 1


def test_worker_that_cannot_boot_reports_unhealthy(own_plane: ControlPlane) -> None:
    environment = own_plane.environment() | {"MODEL_NAME": "/nowhere/at/all"}
    with running(Process, "-m", "handler", environment=environment) as process:
        assert process.wait() == 1
    assert eventually(lambda: [ping for ping in own_plane.pings if ping.get("status") == "unhealthy"])
    assert "/nowhere/at/all" in next(ping["reason"] for ping in own_plane.pings if "reason" in ping)


def test_sigterm_ends_a_worker(own_plane: ControlPlane) -> None:
    with running(Process, "-m", "handler", environment=own_plane.environment()) as booting:
        assert eventually(lambda: "Starting Serverless Worker" in booting.output)
        assert booting.stop() == 0
        assert "Traceback" not in booting.output
    with running(Process, "-m", "handler", environment=own_plane.environment()) as ready:
        own_plane.run("before the end", {"warmup": True})
        assert ready.stop() == 0
        assert "Traceback" not in ready.output


def test_local_test_prints_the_output() -> None:
    job = json.dumps({"input": openai_job(messages=MESSAGES)})
    with running(Process, "-m", "handler", files={"test_input.json": job}) as process:
        assert process.wait() == 0
        assert COUNTED in process.output
    with running(Process, "-m", "handler", f"--test_input={json.dumps({'input': {'prompt': 5}})}") as process:
        assert process.wait() == 1
        assert "prompt" in process.output
    with running(Process, "-m", "handler", files={"test_input.json": "[]"}) as process:
        assert process.wait() == 1
        assert "JSON object" in process.output


def test_serve_api() -> None:
    port = free_port()
    with running(Process, "-m", "handler", "--rp_serve_api", "--rp_api_port", str(port)) as process:
        assert eventually(lambda: "Uvicorn running" in process.output), process.output
        body = {"input": openai_job(messages=MESSAGES)}
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client:
            answer = client.post("/runsync", json=body).json()
            assert answer["output"][0]["choices"][0]["message"]["content"] == COUNTED
            job = client.post("/run", json=body).json()
            assert client.post(f"/status/{job['id']}").json()["status"] == "COMPLETED"
