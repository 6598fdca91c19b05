"""What the hub gives or refuses when a model is fetched: with the hub's real client."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.source import DEMO, Found
from tests.engine.hub_server import INDEX, MODEL, SMALL, STRANGER, TOKEN, Hub
from tests.handler.processes import eventually

ROOT = Path(__file__).parent.parent.parent
CHUNK = 10 << 20
"""Bytes the client writes at once (huggingface_hub, `DOWNLOAD_CHUNK_SIZE`), and so the grain in which it resumes."""
LARGE = SMALL | {"model.safetensors": bytes(2 * CHUNK + 12345)}
LOCATE = """
import json, sys
from pathlib import Path
from engine.errors import PilotlightError
from engine.source import locate
try:
    found = locate(*json.loads(sys.argv[1]))
except PilotlightError as error:
    sys.exit(f"{error}")
print(json.dumps([str(found.folder), found.kind, found.revision]))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub().serving() as server:
        yield server


@dataclass(frozen=True)
class Machine:
    """Where processes run that know one hub and keep what they fetch."""

    endpoint: str
    home: Path

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORM"))}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "100", "HF_HUB_ETAG_TIMEOUT": "100"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {**kept, **own, **patience, "PYTHONPATH": path, **variables}

    def start(self, model: str = MODEL, revision: str | None = None, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOCATE, json.dumps([model, revision])]
        return subprocess.Popen(
            command, env=self.environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def locate(self, model: str = MODEL, revision: str | None = None, **variables: str) -> Found:
        return result(self.start(model, revision, **variables))

    def generate(self, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [*before, sys.executable, str(ROOT / "pilotlight.py"), "generate", MODEL, "-p", "Count from 3 to 7."]
        environment = self.environment(**variables)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)

    def refused(self, *before: str, **variables: str) -> str:
        """What `pilotlight generate` says in its last line; before it, at most that it had begun to fetch."""
        done = self.generate(*before, **variables)
        *begun, said = done.stderr.strip().splitlines()
        assert done.returncode == 1
        assert done.stdout == ""
        assert all(line.startswith(f"{MODEL}: fetching") for line in begun), done.stderr
        return said


def result(process: subprocess.Popen[str]) -> Found:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    folder, kind, revision = json.loads(output)
    return Found(Path(folder), kind, revision)


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(hub.endpoint, tmp_path / "home")


def test_a_model_is_fetched_and_computes(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, {file.name: file.read_bytes() for file in DEMO.iterdir()})
    done = machine.generate()
    assert done.returncode == 0
    assert done.stdout.strip() == "3 4 5 6 7"
    assert done.stderr.startswith(f"{MODEL}: fetching 2.")


def test_only_what_is_read_is_fetched(hub: Hub, machine: Machine) -> None:
    shards = {"model.safetensors.index.json": INDEX, "one.safetensors": b"1", "two.safetensors": b"2"}
    unread = ["consolidated.safetensors", "original/params.json", "pytorch_model.bin", "model.gguf", "onnx/model.onnx",
              "README.md", "adapter_config.json", "three.safetensors"]
    read = {"config.json": b"{}", "additional_chat_templates/x.jinja": b"", **shards}
    hub.add(MODEL, read | dict.fromkeys(unread, b"?"))
    found = machine.locate()
    fetched = {str(file.relative_to(found.folder)) for file in found.folder.rglob("*") if file.is_file()}
    assert found.kind == "hub"
    assert fetched == read.keys()


def test_the_second_time_only_the_commit_is_asked_for(hub: Hub, machine: Machine) -> None:
    commit = hub.add(MODEL, SMALL)
    first = machine.locate()
    hub.log.clear()
    assert machine.locate() == Found(first.folder, "hub cache", commit)
    assert [asked.path for asked in hub.log] == [f"/api/models/{MODEL}"]


def test_a_new_commit_is_noticed_and_only_what_changed_is_fetched(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    machine.locate()
    hub.log.clear()
    commit = hub.add(MODEL, SMALL | {"config.json": b"{ }"})
    assert machine.locate().revision == commit
    assert hub.fetched() == ["config.json"]


def test_a_whole_commit_hash_needs_no_hub_once_it_is_here(hub: Hub, machine: Machine) -> None:
    commit = hub.add(MODEL, SMALL)
    hub.add(MODEL, SMALL | {"config.json": b"{ }"})
    assert machine.locate(revision=commit).revision == commit
    hub.log.clear()
    assert machine.locate(revision=commit).kind == "hub cache"
    assert hub.log == []


def test_offline_nothing_is_asked(hub: Hub, machine: Machine) -> None:
    commit = hub.add(MODEL, SMALL)
    missing = machine.refused(HF_HUB_OFFLINE="1")
    assert hub.log == []
    machine.locate()
    hub.log.clear()
    assert "is not in" in missing
    assert "HF_HUB_OFFLINE" in missing
    assert machine.locate(HF_HUB_OFFLINE="1") == Found(machine.locate().folder, "hub cache", commit)


def test_a_hub_that_is_down_does_not_stop_what_was_fetched_before(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    machine.locate()
    hub.failures.status = 503
    process = machine.start()
    output, errors = process.communicate(timeout=60)
    assert json.loads(output)[1] == "hub cache"
    assert "serving the copy" in errors


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    hub.failures.cuts = 1
    found = machine.locate()
    ranges = [asked.range for asked in hub.log if asked.method == "GET" and asked.path.startswith("/large")]
    assert ranges == [None, f"bytes={CHUNK}-"]
    assert (found.folder / "model.safetensors").read_bytes() == LARGE["model.safetensors"]


def test_a_killed_download_keeps_the_files_that_were_whole(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    hub.failures.cuts = 1
    hub.failures.stalls = True
    process = machine.start()
    assert eventually(lambda: {"config.json", "tokenizer.json"} <= names_under(machine.home))
    assert eventually(lambda: "model.safetensors" in hub.fetched())
    process.kill()
    process.communicate()
    hub.failures.cuts = 0
    hub.log.clear()
    offline = machine.start(HF_HUB_OFFLINE="1")
    assert "not wholly in" in offline.communicate()[1]
    assert machine.locate().kind == "hub"
    assert hub.fetched() == ["model.safetensors"]


def names_under(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("hub/*/snapshots/*/*")}


def test_ctrl_c_ends_a_download(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    hub.failures.cuts = 1
    hub.failures.stalls = True
    process = machine.start()
    assert eventually(lambda: {"config.json", "tokenizer.json"} <= names_under(machine.home))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


def test_two_processes_fetch_at_once_and_each_file_once(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    first, second = [result(process) for process in (machine.start(), machine.start())]
    assert first.folder == second.folder
    assert sorted(hub.fetched()) == sorted(LARGE)


LATE = """
from threading import Event, Thread
from engine.hub import _progress

arrived, at_work, run = [], Event(), Thread.run

def late(thread):
    at_work.wait(60)
    run(thread)

Thread.run = late
with _progress("fetching", 2000, lambda: sum(arrived)):
    arrived.append(2000)
    at_work.set()
"""


def test_what_is_to_come_is_said_right_by_a_thread_that_starts_late() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("fetching 2.0 kB\n")


def test_a_token_is_sent_to_the_hub_and_not_to_where_its_files_are(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE, private=True, gated=True)
    assert machine.locate(HF_TOKEN=TOKEN).kind == "hub"
    assert all(asked.authorized != asked.path.startswith("/large") for asked in hub.log)


def read_terminal(ours: int) -> Iterator[bytes]:
    """What is written at its other side, until nobody has that open any more."""
    with suppress(OSError):  # That is how a terminal says so.
        while piece := os.read(ours, 1 << 16):
            yield piece


def test_at_a_terminal_a_bar_is_drawn(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", LOCATE, json.dumps([MODEL])]
    environment = machine.environment(TERM="xterm", COLUMNS="100")
    with subprocess.Popen(command, env=environment, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        drawn = b"".join(read_terminal(ours)).decode()
    os.close(ours)
    assert process.returncode == 0
    assert "━" in drawn
    assert "21.0/21.0 MB" in drawn


# What goes wrong: one line, with the cause and what to do.


def test_a_wrong_token(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    assert "refuses the token (401): set HF_TOKEN to a valid one" in machine.refused(HF_TOKEN="hf_wrong")


@pytest.mark.parametrize("token", ["", STRANGER])
def test_a_gated_model(hub: Hub, machine: Machine, token: str) -> None:
    hub.add(MODEL, SMALL, gated=True)
    said = machine.refused(HF_TOKEN=token)
    assert f"accept the terms at {hub.endpoint}/{MODEL} and set HF_TOKEN" in said


def test_a_model_that_is_not_there_or_private(machine: Machine) -> None:
    assert "knows no such model, or it is private: set HF_TOKEN" in machine.refused()
    assert "knows no such model, or it may not be read with this HF_TOKEN" in machine.refused(HF_TOKEN=TOKEN)


def test_a_revision_that_is_not_there(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    process = machine.start(revision="v9")
    assert "it has no revision v9" in process.communicate()[1]


def test_a_file_that_is_listed_and_not_there(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    hub.failures.missing.add("tokenizer.json")
    assert "lists a file that it does not have (tokenizer.json)" in machine.refused()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "but pickled ones, which can run code"),
        ({"config.json": b"{}", "x.Q4_K_M.gguf": b""}, "but GGUF files"),
        ({"config.json": b"{}", "adapter_model.safetensors": b""}, "an adapter to another model"),
        ({"config.json": b"{}", "consolidated.safetensors": b""}, "Mistral's consolidated ones"),
        ({"model.safetensors": b""}, "holds no config.json"),
        ({"config.json": b"{}", "model.safetensors.index.json": INDEX}, "lacks one.safetensors, which its index names"),
    ],
)
def test_a_repository_that_is_no_model_we_read(
    hub: Hub, machine: Machine, files: dict[str, bytes], said: str
) -> None:
    hub.add(MODEL, files)
    _, errors = machine.start().communicate(timeout=60)
    assert said in errors
    assert errors.count("\n") == 1


def test_a_hub_that_cannot_be_reached(machine: Machine) -> None:
    said = machine.refused(HF_ENDPOINT="http://127.0.0.1:9")
    assert "the connection to http://127.0.0.1:9 failed" in said
    assert "check the network" in said


def test_a_hub_that_fails(hub: Hub, machine: Machine) -> None:
    hub.failures.status = 503
    assert "answered with status 503: try again later" in machine.refused()


def test_a_disk_that_is_too_small_is_known_before_anything_is_fetched(hub: Hub, machine: Machine) -> None:
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root and its own mount namespace")
    machine.home.mkdir()
    hub.add(MODEL, LARGE)
    mount = f"mount -t tmpfs -o size=4m none {machine.home} && exec \"$@\""
    said = machine.refused("unshare", "--mount", "sh", "-c", mount, "sh")
    assert "21.0 MB are to be fetched" in said
    assert "has room for 4.2 MB: free some, or set HF_HOME to a larger disk" in said
    assert hub.fetched() == []


def test_a_disk_that_fills_up_under_way(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, LARGE)
    said = machine.refused("bash", "-c", 'ulimit -f 15000 && exec "$@"', "bash")
    assert "is full (File too large): free some room, or set HF_HOME to a larger disk" in said
    assert shutil.disk_usage(machine.home).free > len(LARGE["model.safetensors"])


def test_a_cache_that_cannot_be_written_to(hub: Hub, machine: Machine) -> None:
    hub.add(MODEL, SMALL)
    machine.home.touch()
    said = machine.refused()
    assert f"{machine.home}/hub cannot be written to" in said
    assert "set HF_HOME to a folder that can" in said
