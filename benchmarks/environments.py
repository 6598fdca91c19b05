"""A virtual environment for each side, made once and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pilotlight" / "peers"
LLAMA_CPP_BUILD = "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"


def pinned(name: str) -> str:
    """`name==version` as this project's own checks use it."""
    return next(line for line in CONSTRAINTS.read_text().split() if line.startswith(f"{name}=="))


def packages() -> dict[str, list[str]]:
    """What each peer's environment holds; torch is the project's own, whose wheel needs no GPU libraries."""
    return {
        "openvino": ["openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", pinned("torch")],
        "transformers": [pinned("transformers"), pinned("torch"), pinned("psutil")],
        "llama_cpp": ["llama-cpp-python==0.3.36", "gguf==0.19.0"],
    }


def own_packages() -> dict[str, list[str]]:
    """What a user's environment holds who installs Pilotlight alone; its code is this checkout's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"pilotlight": ["--constraint", str(CONSTRAINTS), *project["dependencies"]]}


def loader_packages() -> dict[str, list[str]]:
    """What the environment of each peer holds that only loads weights."""
    return {
        "runai": ["runai-model-streamer==0.17.0", pinned("safetensors"), pinned("torch")],
        "fastsafetensors": ["fastsafetensors==0.5.0", pinned("safetensors"), pinned("torch")],
    }


def interpreter(name: str, folder: Path) -> Path:
    """The Python of a side's environment under `folder`, made first if it is not there or holds other versions.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    needed = (own_packages() | packages() | loader_packages())[name]
    environment, wanted = folder / name, "\n".join(needed)
    python, made = environment / "bin" / "python", environment / "packages.txt"
    if not made.exists() or made.read_text() != wanted:
        shutil.rmtree(environment, ignore_errors=True)
        _say([sys.executable, "-m", "venv", str(environment)])
        _say([str(python), "-m", "pip", "install", "--quiet", *needed])
        # optimum-intel asks for torchvision, whose build need not match torch's; a text model needs none.
        _say([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"])
        made.write_text(wanted)
    return python


def _say(command: list[str]) -> None:
    environment = os.environ | {"CMAKE_ARGS": LLAMA_CPP_BUILD}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
