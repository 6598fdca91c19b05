"""The command line: what it prints where, and with which exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pilotlight
from engine.llm import LLM
from engine.options import parse_size
from engine.request import SamplingParams
from engine.source import DEMO
from engine.terminal import converse

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, str(ROOT / "pilotlight.py")]
COUNT = "Count from 3 to 7."


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=100, check=False)


def exit_status(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The status `pilotlight ARGUMENTS` exits with, run in this process."""
    monkeypatch.setattr(sys, "argv", ["pilotlight", *arguments])
    with pytest.raises(SystemExit) as exited:
        pilotlight.main()
    return exited.value.code


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model to damage."""
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", kv_memory=64 << 20)


def test_generate_gives_one_json_object() -> None:
    done = run("generate", "-p", COUNT, "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert answer["text"].strip() == "3 4 5 6 7"
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(answer["token_ids"])
    assert 0 < answer["boot"]["ready_s"] < answer["boot"]["first_token_s"]
    assert {span["name"] for span in answer["boot"]["spans"]} >= {"import torch", "weights arrive"}


def test_generate_reads_the_prompt_from_standard_input_and_writes_text() -> None:
    done = run("generate", "-p", "-", stdin=COUNT)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3 4 5 6 7", "")


def test_generate_raw_applies_no_template(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(monkeypatch, "generate", "-p", COUNT, "--raw", "--max-tokens", "2", "--json") == 0
    raw = json.loads(capsys.readouterr().out)
    assert exit_status(monkeypatch, "generate", "-p", COUNT, "--max-tokens", "2", "--json") == 0
    chat = json.loads(capsys.readouterr().out)
    assert raw["usage"]["prompt_tokens"] < chat["usage"]["prompt_tokens"]
    assert (chat["finish_reason"], len(chat["token_ids"])) == ("length", 2)


def test_chat_answers_forgets_and_leaves() -> None:
    done = run("chat", stdin=f"{COUNT}\n/reset\n\nCount from 1 to 4.\n/quit\n{COUNT}\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("> ", "").split("\n") == ["3 4 5 6 7", "1 2 3 4", ""]


def test_a_reader_that_leaves_is_no_traceback() -> None:
    command = " ".join([*PROGRAM, "generate", "-p", f"'{COUNT}'", "| true"])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100, check=True)
    assert done.stderr == ""


def test_interrupt_is_quiet_and_exits_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen([*PROGRAM, "bench", "http", "--url", url], stderr=subprocess.PIPE, text=True)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "")


def test_chat_leaves_at_a_second_interrupt_in_a_row_and_knows_its_commands(llm: LLM) -> None:
    lines: Iterator[str | type[KeyboardInterrupt]] = iter([
        KeyboardInterrupt, "Count from 1 to 4.", "/help", KeyboardInterrupt, KeyboardInterrupt,
    ])
    written: list[str] = []

    def ask() -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    converse(llm, SamplingParams(temperature=0, max_tokens=100), ask, written.append)
    said = "".join(written).split("\n")
    assert said[1:] == [
        "(Ctrl-C again, Ctrl-D or /quit leaves)", "1 2 3 4", "(unknown command; /reset forgets, /quit leaves)", "",
        "(Ctrl-C again, Ctrl-D or /quit leaves)", "", "",
    ]


@pytest.mark.parametrize(
    ("arguments", "stdin", "cause"),
    [
        ("generate -p x --max-tokens 2 --json >/dev/full", "", "No space left"),
        ("generate -p -", "printf '\\xff'", "standard input is not UTF-8"),
        ("bench http --url http://127.0.0.1:1 --trace /bin/true", "", "/bin/true is no CSV"),
    ],
)
def test_what_the_shell_hands_over_may_be_unusable(arguments: str, stdin: str, cause: str) -> None:
    command = f"{stdin or 'true'} | {' '.join(PROGRAM)} {arguments}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if cause in line] == done.stderr.splitlines()


def test_a_place_that_cannot_be_written_is_known_before_the_run(tmp_path: Path) -> None:
    workload = tmp_path / "w.jsonl"
    workload.write_text('{"ids": [1], "max_tokens": 1}')
    done = run("bench", "offline", "--workload", str(workload), "--tokens-out", "/nowhere/at/all")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["pilotlight: [Errno 2] No such file or directory: '/nowhere/at/all'"]


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "pilotlight")


def test_interrupt_ends_an_answer_and_not_the_conversation(llm: LLM) -> None:
    questions = iter(["Count from 3 to 30.", "Count from 1 to 4."])
    written: list[str] = []

    def ask() -> str:
        question = next(questions, None)
        if question is None:
            raise EOFError
        written.append("> ")
        return question

    def write(text: str) -> None:
        written.append(text)
        if written.count("> ") == 1 and len(written) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    converse(llm, SamplingParams(temperature=0, max_tokens=100), ask, write)
    _, first, second = "".join(written).split("> ")
    assert len(first.split()) < 10
    assert second.endswith("\n")
    assert signal.getsignal(signal.SIGINT) is handler
    assert not llm.booted.core.has_work


def test_a_conversation_that_outgrows_the_context_goes_on_after_a_reset(llm: LLM) -> None:
    questions = iter(["word " * 3000, "/reset", "Count from 1 to 4.", "/quit"])
    written: list[str] = []
    converse(llm, SamplingParams(temperature=0, max_tokens=100), lambda: next(questions), written.append)
    text = "".join(written)
    assert "the context holds" in text
    assert text.endswith("1 2 3 4\n")


def truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def garble(model: Path) -> None:
    (model / "model.safetensors").write_bytes(os.urandom(1000))


def change_architecture(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    novel = {"architectures": ["NovelForCausalLM"], "model_type": "novel"}
    (model / "config.json").write_text(json.dumps(config | novel))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (truncate, "model.safetensors"),
        (garble, "model.safetensors"),
        (lambda model: (model / "model.safetensors").unlink(), "safetensors"),
        (lambda model: (model / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
        (lambda model: (model / "config.json").unlink(), "config.json"),
        (change_architecture, "NovelForCausalLM"),
        (shutil.rmtree, "neither a folder nor a hub id"),
    ],
)
def test_a_bad_model_is_one_line_and_exit_1(
    damage: object, cause: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    damage(model)
    assert exit_status(monkeypatch, "generate", str(model), "-p", COUNT, "--json") == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("pilotlight: ")
    assert errors.count("\n") == 1
    assert cause in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "-p", COUNT, "--max-tokens", "0"],
        ["generate", "-p", COUNT, "--max-tokens", "many"],
        ["generate", "-p", COUNT, "--temperature", "-1"],
        ["generate", "-p", COUNT, "--device", "abacus"],
        ["generate", "-p", COUNT, "--dtype", "int3"],
        ["generate", "-p", COUNT, "--unheard-of"],
        ["serve", "--kv-memory", "plenty"],
        ["serve", "--port", "70000"],
        ["bench", "offline", "--workload", "/nonexistent/file"],
        ["bench", "http"],
        ["teleport"],
    ],
)
def test_bad_usage_is_exit_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(monkeypatch, *arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096), ("512MiB", 512 << 20), ("512mib", 512 << 20), ("2GB", 2 * 10**9), ("1.5g", 1_500_000_000),
        ("64 K", 64_000), ("1b", 1), ("1TiB", 1 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
