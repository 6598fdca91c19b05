"""The comparison with transformers runs to its end at a tiny shape, and both sides do the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_offline_comparison_runs_and_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "offline.json"
    command = ["benchmarks.offline", "--shape", "tiny", "--repeats", "1", "--dtype", "float32", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pilotlight" in done.stdout
    ours, theirs = json.loads(out.read_text())["runs"]
    assert (ours["side"], theirs["side"]) == ("pilotlight", "transformers continuous batching")
    assert ours["output_tokens"] == theirs["output_tokens"] > 0
    assert ours["output_tokens_per_s"] > 0
