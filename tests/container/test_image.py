"""What is in the image, and what is not."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.container.conftest import ROOT, Build, Served
from tests.container.podman import Podman

CHANGED = "localhost/pilotlight:changed"
CODE_BYTES = 1_500_000
"""What a change of code may ship at most; it is compressed on its way."""

LAYERS = (
    "base", "system packages", "dependencies", "weights", "demo model", "CPU kernels", "model's other files", "code",
)
"""From the bottom up."""


def test_doctor_finds_native_kernels(served: Served) -> None:
    checks = json.loads(served.container.execute("pilotlight", "doctor", "--json"))["checks"]
    [kernels] = [check for check in checks if check["name"] == "CPU kernels"]
    assert kernels["ok"], kernels
    assert kernels["detail"].startswith("C++")


def test_the_baked_model_is_whole_and_outside_the_volume(served: Served) -> None:
    model = served.container.execute("printenv", "MODEL_NAME").strip()
    assert model == "/models/demo"
    assert json.loads(served.container.execute("pilotlight", "verify", model, "--json"))["ok"]


def test_it_runs_as_a_user_who_may_change_nothing_of_it(podman: Podman, image: str, served: Served) -> None:
    assert podman.inspect(image)["Config"]["User"] == "1000:1000"
    assert served.container.execute("stat", "--format=%u", "/proc/1", as_root=True).strip() == "1000"
    capabilities = served.container.execute("grep", "CapEff", "/proc/1/status").split()[1]
    assert int(capabilities, 16) == 0
    with podman.running(image, command=("sleep", "100")) as writable:
        assert writable.execute("find", "/opt", "/models", "-writable", "!", "-type", "l") == ""


def test_no_compiler_no_cache_no_tests(served: Served) -> None:
    programs = "for name in cc gcc g++ c++ clang ld nvcc; do command -v $name; done"
    assert served.container.execute("sh", "-c", programs, check=False) == ""
    folders = "find / -xdev ( -path */.cache/pip/* -o -path /var/lib/apt/lists/*_Packages -o -path /source/* ) -print"
    assert served.container.execute(*folders.split(), as_root=True) == ""
    ours = served.container.execute("ls", "/opt/pilotlight").split()
    assert not {"tests", "benchmarks", "docs"} & set(ours)
    assert "handler" in ours
    torch = served.container.execute("python", "-c", "import torch; print(*torch.__path__)").strip()
    assert "test" not in served.container.execute("ls", torch).split()


def test_every_module_a_worker_may_import_has_byte_code_that_is_not_checked(served: Served) -> None:
    program = (
        "import pathlib, re, importlib.util as util; "
        "files = map(str, pathlib.Path('/opt/pilotlight').rglob('*.py')); "
        "mine = [file for file in files if not re.search('/warmup/|/handler/(local|billing/reading)/', file)]; "
        "paths = map(util.cache_from_source, mine); "
        "print({pathlib.Path(path).read_bytes()[4] for path in paths})"  # 1: hash-based, unchecked (PEP 552).
    )
    assert served.container.execute("python", "-c", program).strip() == "{1}"


def test_it_says_what_it_is(podman: Podman, image: str) -> None:
    configuration = podman.inspect(image)["Config"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert configuration["Labels"]["org.opencontainers.image.version"] == version
    assert configuration["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert "8000/tcp" in configuration["ExposedPorts"]
    assert configuration["Entrypoint"][0] == "tini"


def test_a_change_of_code_ships_kilobytes(
    podman: Podman, image: str, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = tmp_path / "context"
    shutil.copytree(ROOT, context, ignore=shutil.ignore_patterns(".*", "build", "tests", "benchmarks", "*.egg-info"))
    shutil.copy(ROOT / ".dockerignore", context)
    with (context / "handler" / "server.py").open("a") as source:
        source.write("\n# Changed.\n")
    podman.build(CHANGED, context, build.base, build.volumes)
    before, after = (podman.inspect(name)["RootFS"]["Layers"] for name in (image, CHANGED))
    assert len(before) == len(after)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True] * (len(before) - 1) + [False]
    with capsys.disabled():
        print(f"\n{report(podman, image)}")
    assert compressed_code(podman, image) < CODE_BYTES


def sizes(podman: Podman, image: str) -> list[int]:
    """Bytes of every layer, unpacked, from the base upwards."""
    entries = json.loads(podman("history", "--format", "json", image).stdout)
    return [entry["size"] for entry in reversed(entries) if entry["size"]]


def compressed_code(podman: Podman, image: str) -> int:
    """Bytes of the last layer as a registry gets it."""
    archive = "tar -cz --exclude demo --exclude '*.so' /opt/pilotlight 2>/dev/null | wc -c"
    return int(podman("run", "--rm", image, "sh", "-c", archive).stdout)


def report(podman: Podman, image: str) -> str:
    lines = [f"{size / 1e6:10.1f} MB  {name}" for size, name in zip(sizes(podman, image), LAYERS, strict=True)]
    total, code = podman.inspect(image)["Size"] / 1e6, compressed_code(podman, image) / 1e6
    return "\n".join([*lines, f"{total:10.1f} MB  in all", f"{code:10.1f} MB  code, compressed"])
