"""podman as the tests drive it: images built, containers run and asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.handler.processes import NOTHING, SMALL, eventually, free_port

TOOLS = ("podman", "runc", "iptables", "debootstrap")
INSIDE = 8000
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"

CONFIGURATION = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
"""
"""Limits that a machine which is itself confined can grant, and the runtime that takes its control groups."""


def what_is_missing() -> str | None:
    """Why no container can be built here, if that is so."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)} here; apt-get install podman runc netavark iptables debootstrap"
    return None if os.geteuid() == 0 else "debootstrap and published ports need root"


class Podman:
    """The command, with a configuration of its own.

    Args:
        folder: keeps the configuration.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "containers.conf").write_text(CONFIGURATION)
        self.environment = {"CONTAINERS_CONF": str(folder / "containers.conf")}
        self._environment = os.environ | self.environment

    def __call__(self, *arguments: str, check: bool = True, seconds: float = 100) -> subprocess.CompletedProcess[str]:
        """Run a subcommand; what went wrong is in the assertion."""
        done = subprocess.run(
            ["podman", *arguments], env=self._environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        said = done.stdout[-6000:] + done.stderr[-6000:]
        assert done.returncode == 0 or not check, f"podman {' '.join(arguments)}\n{said}"
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of an image or a container."""
        found: list[dict[str, Any]] = json.loads(self("inspect", name).stdout)
        return found[0]

    def exists(self, image: str) -> bool:
        return self("image", "exists", image, check=False).returncode == 0

    def import_debian(self, image: str, folder: Path) -> None:
        """Make a base image of a Debian with Python, where no registry need be reached."""
        root = folder / "root"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)],
            check=True, capture_output=True, timeout=500,
        )
        archive = folder / "root.tar"
        subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(root), "."], check=True)
        self("import", str(archive), image)
        shutil.rmtree(root)
        archive.unlink()

    def build(
        self, image: str, context: Path, base: str, volumes: Sequence[str], target: str | None = None
    ) -> None:
        """Build as docs/image.md says, with pip's sources of this machine; the last stage, or the one that is named."""
        mounts = [argument for volume in volumes for argument in ("--volume", volume)]
        stage = ["--target", target] if target else []
        self(
            "build", "--format", "docker", "--jobs", "2", "--network", "host", *mounts, *stage,
            "--build-arg", f"BASE={base}", "--tag", image, str(context), seconds=900,
        )

    @contextmanager
    def running(
        self, image: str, *options: str, command: Sequence[str] = (), environment: Mapping[str, str] = NOTHING
    ) -> Iterator[Container]:
        """A container, gone afterwards.

        Args:
            options: of `podman run`.
            command: instead of the image's own.
            environment: more variables for it.
        """
        variables = [f"--env={name}={value}" for name, value in {**SMALL, **environment}.items()]
        name = self("run", "--detach", *variables, *options, image, *command).stdout.strip()
        container = Container(self, name)
        try:
            yield container
        finally:
            self("rm", "--force", "--time", "0", name)


class Container:
    """A container that runs, or has run."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self._name = name

    def execute(self, *command: str, as_root: bool = False, check: bool = True) -> str:
        """What a command run inside prints."""
        user = ["--user=0"] if as_root else []
        return self._podman("exec", *user, self._name, *command, check=check).stdout

    def health(self) -> int:
        """The status of the image's own HEALTHCHECK, run now."""
        return self._podman("healthcheck", "run", self._name, check=False).returncode

    def stop(self, seconds: int = 60) -> int:
        """`podman stop`; gives the exit status, which is 137 if it had to be killed."""
        self._podman("stop", "--time", str(seconds), self._name)
        status: int = self._podman.inspect(self._name)["State"]["ExitCode"]
        return status

    @property
    def log(self) -> str:
        done = self._podman("logs", self._name)
        return done.stdout + done.stderr


def published(inside: int = INSIDE) -> tuple[str, str]:
    """An option that publishes a port of the container here, and its address."""
    port = free_port()
    return f"--publish=127.0.0.1:{port}:{inside}", f"http://127.0.0.1:{port}"


def status_of(url: str) -> int:
    """The status that a GET is answered with; 0 if it is not."""
    try:
        return httpx.get(url, timeout=60).status_code
    except httpx.TransportError:
        return 0


def await_ready(url: str) -> None:
    assert eventually(lambda: status_of(f"{url}/ping") == httpx.codes.OK)
