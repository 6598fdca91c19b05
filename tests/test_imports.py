"""Who imports what: rooms only downwards, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"pilotlight": 5, "warmup": 4, "handler": 3, "image": 3, "engine": 2, "kernels": 1}
TORCH_FREE = [
    "pilotlight", "engine", "engine.config", "engine.errors", "engine.machine", "engine.pages", "engine.plan",
    "engine.request", "engine.scheduler", "engine.core", "engine.engine", "engine.text", "engine.chat", "engine.source",
    "engine.timeline", "engine.llm", "engine.boot", "engine.bench", "engine.doctor", "handler", "handler.server",
    "handler.app", "handler.bench", "kernels", "engine.manifest", "engine.prefetch", "engine.residency",
    "engine.tensor_file", "engine.start", "engine.hub", "engine.first_token", "engine.lanes", "engine.boot_runs",
]
HEAVY = {
    "transformers", "fastapi", "starlette", "uvicorn", "runpod", "boto3", "botocore", "aiohttp", "httpx", "duckdb",
    "prometheus_client",
    "pydantic_settings", "huggingface_hub", "openai", "triton", "rich",
}
"""What a boot must not wait for. torch is needed; numpy comes with it where it is installed, and is quick."""

DUMP_MODULES_AT_FIRST_TEXT = """
import sys
sys.path.insert(0, sys.argv.pop())

class Watch:
    def __init__(self, stream):
        self.stream, self.seen = stream, False
    def write(self, text):
        if text.strip() and not self.seen:
            self.seen = True
            print("\\n".join(sys.modules), file=sys.stderr)
        return self.stream.write(text)
    def __getattr__(self, name):
        return getattr(self.stream, name)

sys.stdout = Watch(sys.stdout)
import pilotlight
pilotlight.main()
"""


def sources() -> list[Path]:
    return [path for room in FLOORS for path in [ROOT / f"{room}.py", *(ROOT / room).rglob("*.py")] if path.exists()]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Full names of every module of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_once(path: Path) -> Iterator[str]:
    """Names of the modules that importing a file imports: not those in functions, nor those for type checkers alone."""
    body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_import_downwards_only() -> None:
    for path in sources():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        rooms = {name.split(".")[0] for name in imported(path)} & FLOORS.keys() - {room}
        assert [other for other in rooms if FLOORS[other] >= FLOORS[room]] == [], path


def test_the_warmer_knows_no_engine() -> None:
    forbidden = {"torch", "engine", "kernels", "image"}
    for path in (ROOT / "warmup").rglob("*.py"):
        assert {name.split(".")[0] for name in imported(path)} & forbidden == set(), path


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {module_name(path): path for path in sources()}
    TopologicalSorter(
        {name: {other for other in imported_at_once(path) if other in names} - {name} for name, path in names.items()}
    ).prepare()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_without_torch(module: str) -> None:
    program = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_torch_is_the_only_heavy_module_before_the_first_token() -> None:
    arguments = ["generate", "-p", "Count from 3 to 7.", str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-c", DUMP_MODULES_AT_FIRST_TEXT, *arguments],
        capture_output=True, text=True, check=True, timeout=100,
    )
    loaded = set(done.stderr.split())
    assert "torch" in loaded
    assert loaded & HEAVY == set()


def test_our_kernels_are_the_ones_imported() -> None:
    import kernels

    assert kernels.PILOTLIGHT
    assert Path(kernels.__file__).parent == ROOT / "kernels"
