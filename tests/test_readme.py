"""What README.md and docs/ print for readers works as printed.

Every `bash` and `python` block is run, in an empty folder and beside a running server, but for those under a comment
`<!-- not run by tests: why -->`. Installing and testing are what .ci/run does, so their commands are compared with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

from tests.handler.processes import Server, running

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- not run by tests: .+ -->\n+)?^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#]+)[^)]*\)")
INSTALL = "pip install -c constraints.txt -e '.[test]'"
TEST = "python -m pytest -n 3 --dist worksteal"
ANSWER = "3 4 5 6 7"


def blocks(language: str) -> list[str]:
    found = [match.groups() for page in PAGES for match in BLOCK.finditer(page.read_text())]
    return [text for excused, kind, text in found if kind == language and not excused]


def commands() -> list[str]:
    return [text for text in blocks("bash") if INSTALL not in text and text.strip() != TEST]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where `python` is this one and `pilotlight` is ours, installed or not."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "pilotlight"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "pilotlight.py"}" "$@"\n')
    program.chmod(0o755)
    paths = [str(Path(sys.executable).parent), str(folder), os.environ["PATH"]]
    return os.environ | {"PATH": ":".join(paths)}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where a server with the demo model listens, whose bills are kept where the commands look for them."""
    state = {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    with running(Server, "-m", "pilotlight", "serve", "--port", "0", environment=state) as server:
        server.await_ready()
        yield int(server.url.rpartition(":")[2])
        assert server.stop() == 0


def holds_answer(output: str) -> bool:
    """Whether the numbers come in a row, be it in pieces."""
    return ANSWER in " ".join(re.findall(r"\d+", output))


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        arguments, env=environment, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("text", commands())
def test_commands_run(text: str, environment: dict[str, str], port: int, tmp_path: Path) -> None:
    output = run(["bash", "-euo", "pipefail", "-c", text.replace("8000", str(port))], environment, tmp_path)
    assert holds_answer(output) or "Count" not in text


@pytest.mark.parametrize("text", blocks("python"))
def test_examples_run(text: str, environment: dict[str, str], port: int, tmp_path: Path) -> None:
    output = run([sys.executable, "-c", text.replace("8000", str(port))], environment, tmp_path)
    assert holds_answer(output) or "Count" not in text


def test_ci_installs_and_tests_with_the_readmes_commands() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    readme = blocks("bash")
    assert INSTALL in ci
    assert TEST in ci
    assert sum(INSTALL in text for text in readme) == sum(text.strip() == TEST for text in readme) == 1


def our_commands() -> dict[str, list[str]]:
    """Every subcommand's name and its parameters' names."""
    from handler.bench_command import app as bench
    from handler.billing.command import app as bill
    from pilotlight import app
    from warmup.command import app as warm

    groups = {"": app, "bench ": bench, "bill ": bill, "warm ": warm}
    return {
        f"{group}{info.callback.__name__}": list(signature(info.callback).parameters)
        for group, commands in groups.items() for info in commands.registered_commands if info.callback
    }


def test_the_command_table_is_whole() -> None:
    table = {line.split("`")[1] for line in PAGES[0].read_text().splitlines() if line.startswith("| `pilotlight")}
    named = {" ".join(re.findall(r"^pilotlight|(?<= )[a-z]+(?= |$)", row)) for row in table}
    assert named == {f"pilotlight {name}" for name in our_commands()}


def test_the_commands_without_json_are_named() -> None:
    sentence = re.search(r"`--json` \(of all but\s([^)]*)\)", PAGES[0].read_text())
    assert sentence, "the README says which commands have --json"
    without = {name for name, parameters in our_commands().items() if "as_json" not in parameters}
    assert set(re.findall("`([^`]+)`", sentence[1])) == without


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []
