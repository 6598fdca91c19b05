"""The warmer starts quickly, and nothing of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LATER = {"torch", "numpy", "duckdb", "matplotlib", "botocore", "httpx", "pydantic", "prometheus_client", "rich"}
"""What takes longer to import than all of ours."""

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "warmup").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("module", ["warmup.run", "warmup.once", "warmup.command", "warmup.metrics", "warmup.status"])
def test_importing_it_brings_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert LATER & set(done.stdout.split()) == set()


def test_importing_all_of_it_needs_no_torch() -> None:
    program = f"import sys, {', '.join(MODULES)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_a_whole_look_needs_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['pilotlight', 'warm', 'ping', '--endpoint', 'x', '--dry-run', '--price', '0.0003']\n"
        "import pilotlight\n"
        "try: pilotlight.main()\n"
        "except SystemExit: pass\n"
        "assert 'httpx' in sys.modules and 'numpy' in sys.modules\n"
        "assert not {'torch', 'duckdb'} & set(sys.modules)\n"
    )
    variables = {"RUNPOD_ENDPOINT_BASE_URL": "http://127.0.0.1:9/v2", "PILOTLIGHT_RUNPOD_API": "http://127.0.0.1:9/v2"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "XDG_STATE_HOME": str(tmp_path), **variables},
    )
    assert done.returncode == 0, done.stderr
    assert "Connection refused" in done.stderr
