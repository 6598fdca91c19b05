"""Workers as containers, with a program in podman's place that starts processes by the same command line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from handler.local.containers import SEEN_STATE, ContainerHandle, Containers
from handler.local.runtime import CannotStart
from tests.local.crew import becomes

PROGRAM = """#!/bin/sh
echo "$@" >> {folder}/asked
case $1 in
run) echo $$ > {folder}/pid; exec sleep 600;;
kill) kill -$3 "$(cat {folder}/pid)";;
rm) kill -KILL "$(cat {folder}/pid)";;
pause) kill -STOP "$(cat {folder}/pid)";;
unpause) kill -CONT "$(cat {folder}/pid)";;
ps) cat {folder}/left 2> /dev/null || true;;
esac
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    return executable(tmp_path / "podman", PROGRAM.format(folder=tmp_path))


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def asked(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "asked").read_text().splitlines()]


async def started(program: str, folder: Path) -> ContainerHandle:
    containers = Containers(program, "an-image", folder, ["--gpus=all"])
    handle = await containers.start("worker-1", {"NAME": "value"}, folder / "workers" / "worker-1" / "log")
    await becomes(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    return handle


def test_it_is_started_with_its_name_its_variables_and_the_books_folders(program: str, tmp_path: Path) -> None:
    async def test() -> None:
        handle = await started(program, tmp_path)
        await handle.kill()
        await handle.wait()

    asyncio.run(test())
    [run, *_] = asked(tmp_path)
    assert run[:4] == ["run", "--rm", "--name", "worker-1"]
    assert run[-2:] == ["--gpus=all", "an-image"], "the user's options come last, and win"
    assert "--env=NAME=value" in run
    assert run[run.index("--label") + 1] == f"pilotlight.endpoint={tmp_path}"
    for name in ("ledger", "journal"):
        assert f"--volume={tmp_path / name}:{SEEN_STATE / name}" in run
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize(("end", "status"), [("terminate", -15), ("kill", -9)])
def test_how_it_was_ended_is_told(program: str, tmp_path: Path, end: str, status: int) -> None:
    async def test() -> int:
        handle = await started(program, tmp_path)
        await handle.freeze()
        await handle.thaw()
        await getattr(handle, end)()
        ended = await handle.wait()
        await handle.kill()  # One that is gone is not asked for again.
        return ended

    assert asyncio.run(test()) == status
    assert [line[0] for line in asked(tmp_path)] == ["run", "pause", "unpause", "kill" if end == "terminate" else "rm"]


def test_what_a_killed_endpoint_has_left_is_removed(program: str, tmp_path: Path) -> None:
    (tmp_path / "left").write_text("abc\ndef\n")
    (tmp_path / "pid").write_text(str(2**22))  # No process has it.
    assert asyncio.run(Containers(program, "an-image", tmp_path).sweep()) == 2
    assert asked(tmp_path)[-1] == ["rm", "--force", "abc", "def"]
    (tmp_path / "left").unlink()
    assert asyncio.run(Containers(program, "an-image", tmp_path).sweep()) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "podman cannot be run: No such file or directory"),
        ("#!/bin/sh\necho No daemon answers. >&2; exit 1", "podman cannot be used: No daemon answers."),
        ("#!/bin/sh\nexit 3", "podman cannot be used: ended with status 3"),
    ],
)
def test_a_program_that_cannot_be_used_is_named_at_the_start(tmp_path: Path, text: str | None, said: str) -> None:
    program = str(tmp_path / "podman") if text is None else executable(tmp_path / "podman", text)
    with pytest.raises(CannotStart, match=said):
        asyncio.run(Containers(program, "an-image", tmp_path).sweep())
