"""Where this machine's pip finds packages, taken into a build: a configuration and the local folders it names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

SOURCES = {
    "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url", "no-index", "proxy",
    "timeout", "trusted-host",
}
"""pip's options that say where packages come from; where they go to is the build's affair."""


def pip_volumes(folder: Path) -> list[str]:
    """Volumes, `HOST:CONTAINER:ro`, that let a build's pip install what this machine's could.

    Args:
        folder: gets the configuration.
    """
    options = dict(_options())
    configuration = folder / "pip.conf"
    lines = [f"{name} = {' '.join(value.split())}" for name, value in options.items()]
    configuration.write_text("\n".join(["[global]", *lines, ""]))
    local = {path for value in options.values() for word in value.split() if (path := _local(word)) is not None}
    return [f"{configuration}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(local))]


def _options() -> Iterator[tuple[str, str]]:
    """The effective options, files' before the environment's, which win."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for line in sorted(written, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        if option in SOURCES:
            yield option, str(ast.literal_eval(value))


def _local(word: str) -> Path | None:
    """The folder or file here that an option names. An index's pages link to files beside its own folder."""
    if word.startswith("file://"):
        return Path(urlsplit(word).path).parent
    return Path(word) if word.startswith("/") and Path(word).exists() else None
