"""Workers as containers, by the command line of podman or docker, which are the same here."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from handler.local.processes import ending_with_parent
from handler.local.runtime import CannotStart, describe, open_log

SEEN_STATE: Final = Path("/pilotlight")
"""Where a container finds the endpoint's state folder."""

_SHARED: Final = ("ledger", "journal")
"""Folders of it that a worker writes to, as whatever user its image has."""

_LABEL: Final = "pilotlight.endpoint"


class ContainerHandle:
    """A container, and the client process that stays with it and prints what it writes."""

    def __init__(self, program: str, name: str, client: asyncio.subprocess.Process) -> None:
        self._program = program
        self._client = client
        self.name = name

    async def terminate(self) -> None:
        await self._ask("kill", "--signal", "TERM", self.name)

    async def kill(self) -> None:
        await self._ask("rm", "--force", self.name)

    async def freeze(self) -> None:
        await self._ask("pause", self.name)

    async def thaw(self) -> None:
        await self._ask("unpause", self.name)

    async def wait(self) -> int:
        status = await self._client.wait()
        # How both programs, as shells do, give the signal that ended a container's first process.
        return 128 - status if 128 < status < 128 + signal.NSIG else status

    async def _ask(self, *arguments: str) -> None:
        """Run a subcommand; a container that is gone is no error."""
        if self._client.returncode is None:
            await run(self._program, *arguments)


class Containers:
    """Starts containers of one image on this machine's network, so that they reach the endpoint on 127.0.0.1.

    Args:
        program: `podman` or `docker`.
        state: the endpoint's state folder; names whose containers they are.
        options: more options of `run`, such as `--gpus=all`.
    """

    def __init__(self, program: str, image: str, state: Path, options: Sequence[str] = ()) -> None:
        self._program = program
        self._image = image
        self._state = state
        self._options = tuple(options)

    async def start(self, worker_id: str, environment: Mapping[str, str], log: Path) -> ContainerHandle:
        """Start one; if this process ends, however that happens, it is told to end, too."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        try:
            arguments = [
                "run", "--rm", "--name", worker_id, "--network", "host", "--label", f"{_LABEL}={self._state}",
                *self._mounts(), *variables, *self._options, self._image,
            ]
            with open_log(log) as output:
                client = await asyncio.create_subprocess_exec(
                    self._program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                    start_new_session=True, preexec_fn=ending_with_parent(signal.SIGTERM),
                )
        except OSError as error:
            raise CannotStart(f"a worker cannot be started: {self._program}: {error.strerror}") from None
        return ContainerHandle(self._program, worker_id, client)

    async def sweep(self) -> int:
        """Remove the containers that an endpoint with the same state folder has left, frozen ones perhaps.

        Raises:
            CannotStart: the program is not there, or what does its work does not answer.
        """
        try:
            status, said = await run(
                self._program, "ps", "--all", "--quiet", "--filter", f"label={_LABEL}={self._state}"
            )
        except OSError as error:
            raise CannotStart(f"{self._program} cannot be run: {error.strerror}") from None
        if status:
            raise CannotStart(f"{self._program} cannot be used: {' '.join(said.split()) or describe(status)}")
        names = said.split()
        if names:
            await run(self._program, "rm", "--force", *names)
        return len(names)

    def _mounts(self) -> list[str]:
        """The folders are open to every user in the container; on this machine their parent is the user's alone."""
        for name in _SHARED:
            folder = self._state / name
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
        return [f"--volume={self._state / name}:{SEEN_STATE / name}" for name in _SHARED]


async def run(program: str, *arguments: str) -> tuple[int, str]:
    """The exit status of a command, and its output, or what it complains of; raises OSError where there is none."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaint = await process.communicate()
    status = process.returncode or 0
    return status, (complaint if status else output).decode(errors="replace")
