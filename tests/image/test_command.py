"""`pilotlight bake` and `pilotlight verify`: what they print where, and their exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.manifest import MANIFEST, read_manifest

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "pilotlight.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_bake_and_verify_give_one_json_object(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("bake", "demo", str(out), "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["manifest"] == str(out / MANIFEST)
    assert report["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    manifest = read_manifest(out)
    assert manifest is not None
    assert report["tensors"] == len(manifest.tensors)
    assert report["seconds"] > 0
    done = run("verify", str(out), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "problems": []})


def test_verify_names_problems_and_fails(tmp_path: Path) -> None:
    run("bake", "demo", str(tmp_path / "out"))
    (tmp_path / "out" / "tokenizer.json").unlink()
    done = run("verify", str(tmp_path / "out"), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], len(answer["problems"])) == (1, False, 1)
    done = run("verify", str(tmp_path / "out"))
    assert (done.returncode, done.stdout.splitlines()) == (1, answer["problems"])


@pytest.mark.parametrize(
    ("arguments", "status", "cause"),
    [
        (["bake", "demo", "{}", "--arch", "70"], 2, "--arch"),
        (["bake", "demo", "{}", "--dtype", "int8"], 2, "--dtype"),
        (["bake", "demo", "{}", "--quantize", "int3"], 2, "--quantize"),
        (["bake", "demo"], 2, "OUT"),
        (["bake", "{}/nowhere", "{}/out"], 1, "neither a folder nor a hub id"),
        (["bake", "demo", "{}/out", "--revision", "v1"], 1, "revision v1"),
        (["verify", "{}/nowhere"], 2, "DIR"),
        (["verify", str(ROOT / "engine" / "demo")], 1, "is not baked"),
    ],
)
def test_bad_usage_is_2_and_a_bad_model_1(tmp_path: Path, arguments: list[str], status: int, cause: str) -> None:
    done = run(*[argument.format(tmp_path) for argument in arguments])
    assert done.returncode == status
    assert cause in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_kernels_are_compiled_for_the_model_alone_and_in_a_fixed_order(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from kernels.gpu.index import Index, source_hash

    done = run("bake", "demo", str(tmp_path / "out"), "--arch", "80", "--json")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.kernels is not None
    assert (manifest.kernels.architectures, manifest.kernels.dtypes) == ((80,), ("bfloat16",))
    assert manifest.kernels.source_sha256 == source_hash()
    index = Index.read(tmp_path / "out" / "kernels")
    assert {f"kernels/{binary.file}" for binary in index.binaries} < manifest.files.keys()
    assert [binary.file for binary in index.binaries] == sorted(binary.file for binary in index.binaries)
    assert run("verify", str(tmp_path / "out")).returncode == 0
