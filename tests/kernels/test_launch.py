"""Launching compiled kernels without Triton: what reaches the driver, and what is said where something is missing."""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")
pytest.importorskip("cuda.bindings")

from kernels.gpu import launch
from kernels.gpu.compiler import compile_variant, ptx_parameters
from kernels.gpu.driver import CudaDriver, DriverMissing
from kernels.gpu.index import Index, IndexBroken, IndexMissing, IndexStale
from kernels.gpu.launch import KernelMissing, PrecompiledLauncher
from kernels.gpu.norm import rms_norm
from kernels.gpu.parameters import ArgumentUnfit, Parameters
from kernels.gpu.specification import Constant, Variant
from tests.kernels.compiled import compiled_kernels
from tests.kernels.values import binary_of_each, values_for

ROOT = Path(__file__).parent.parent.parent
STREAM = 0x5EED
READERS: dict[str, Any] = {"*": ctypes.c_uint64, "i32": ctypes.c_int32, "fp32": ctypes.c_float}
FORMATS = {"i32": "<i", "fp32": "<f"}
NORM: dict[str, Constant] = {"BLOCK": 1024, "num_warps": 4, "num_stages": 1}


class RecordingDriver:
    """Reads parameters as the real one does, through the array of pointers."""

    def __init__(self, capability: int = 90) -> None:
        self.capability = capability
        self.loaded: list[tuple[str, int]] = []
        self.launched: list[tuple[Any, ...]] = []

    def load(self, kernel: str, cubin: bytes, function: str, shared: int) -> str:
        assert cubin.startswith(b"\x7fELF")
        self.loaded.append((kernel, shared))
        return function

    def launch(
        self, kernel: str, handle: Any, grid: tuple[int, int, int], warps: int, shared: int, stream: int,
        parameters: int,
    ) -> None:
        kinds = ["*"] * 3 + ["i32", "fp32"] + ["*"] * 2  # rms_norm's, and the two that Triton adds.
        pointers = (ctypes.c_void_p * len(kinds)).from_address(parameters)
        values = [READERS[kind].from_address(pointer).value for kind, pointer in zip(kinds, pointers, strict=True)]
        self.launched.append((kernel, handle, grid, warps, shared, stream, values))


class CountingLauncher:
    """In place of Triton's."""

    def __init__(self) -> None:
        self.asked: set[tuple[Any, ...]] = set()

    @property
    def compilations(self) -> int:
        return len(self.asked)

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        self.asked.add((kernel, *constants.items()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(autouse=True)
def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_current_stream", lambda device: STREAM)


def norm_arguments(rows: int = 3, dtype: torch.dtype = torch.float16) -> tuple[Tensor | int | float, ...]:
    x = torch.zeros(rows, 1024, dtype=dtype)
    return x, x[0], torch.empty_like(x), 64, 1e-5


def test_a_launch_hands_the_driver_grid_threads_stream_and_every_argument(folder: Path) -> None:
    driver = RecordingDriver()
    launcher = PrecompiledLauncher(folder, 0, driver)
    x, weight = torch.zeros(3, 1024, dtype=torch.float16), torch.zeros(1024, dtype=torch.float16)
    out = rms_norm(launcher, x, weight, 0.25)
    [(kernel, handle, grid, warps, _, stream, values)] = driver.launched
    assert (kernel, handle, grid, warps, stream) == ("rms_norm", "rms_norm", (3, 1, 1), 4, STREAM)
    assert values == [x.data_ptr(), weight.data_ptr(), out.data_ptr(), 64, 0.25, 0, 0]
    assert launcher.compilations == 0


def test_a_kernel_is_loaded_once_and_its_arguments_are_new_each_time(folder: Path) -> None:
    driver = RecordingDriver()
    launcher = PrecompiledLauncher(folder, 0, driver)
    kept = [norm_arguments(rows) for rows in (1, 2)]
    for rows, arguments in enumerate(kept, 1):
        launcher.launch("rms_norm", NORM, (rows, 1, 1), arguments)
    assert len(driver.loaded) == 1
    assert len({values[0] for *_, values in driver.launched}) == 2


def test_no_programs_no_launch(folder: Path) -> None:
    driver = RecordingDriver()
    PrecompiledLauncher(folder, 0, driver).launch("rms_norm", NORM, (0, 1, 1), norm_arguments())
    assert (driver.loaded, driver.launched) == ([], [])


def test_a_variant_that_is_missing_is_named_with_the_command_that_makes_it(folder: Path) -> None:
    launcher = PrecompiledLauncher(folder, 0, RecordingDriver())
    with pytest.raises(KernelMissing) as missing:
        launcher.launch("rms_norm", {**NORM, "BLOCK": 8}, (1, 1, 1), norm_arguments())
    for part in ("rms_norm", "*fp16", "BLOCK=8", "sm_90", "python -m kernels.precompile --arch 90", str(folder)):
        assert part in str(missing.value)


@pytest.mark.parametrize("change", [
    lambda x, weight, out, groups, epsilon: (x.double(), weight, out, groups, epsilon),
    lambda x, weight, out, groups, epsilon: (x, weight, out, x, epsilon),
    lambda x, weight, out, groups, epsilon: (x, weight, out, groups),
], ids=["an unknown type", "a tensor for a number", "one too few"])
def test_arguments_of_other_kinds_are_another_variant(
    folder: Path, change: Callable[..., tuple[Tensor | int | float, ...]]
) -> None:
    with pytest.raises(KernelMissing):
        PrecompiledLauncher(folder, 0, RecordingDriver()).launch("rms_norm", NORM, (1, 1, 1), change(*norm_arguments()))


def test_a_tensor_at_an_odd_address_is_refused(folder: Path) -> None:
    x, weight, out, groups, epsilon = norm_arguments()
    assert isinstance(x, Tensor)
    with pytest.raises(ArgumentUnfit, match=r"rms_norm.*multiple of 16"):
        PrecompiledLauncher(folder, 0, RecordingDriver()).launch(
            "rms_norm", NORM, (1, 1, 1), (x[:, 1:], weight, out, groups, epsilon)
        )


def test_a_number_that_its_parameter_cannot_hold_is_refused(folder: Path) -> None:
    launcher = PrecompiledLauncher(folder, 0, RecordingDriver())
    for groups in (2**31, 0.5):
        with pytest.raises(ArgumentUnfit, match=rf"groups = {groups} is no i32"):
            launcher.launch("rms_norm", NORM, (1, 1, 1), (*norm_arguments()[:3], groups, 1e-5))


def test_missing_variants_are_compiled_counted_and_logged_in_development(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver, triton = RecordingDriver(), CountingLauncher()
    launcher = PrecompiledLauncher(folder, 0, driver, triton)
    for block in (8, 8, 1024):
        launcher.launch("rms_norm", {**NORM, "BLOCK": block}, (1, 1, 1), norm_arguments())
    assert (launcher.compilations, len(driver.launched)) == (1, 1)
    [warning] = caplog.messages
    assert "compiled in service" in warning
    assert "BLOCK=8" in warning


def test_a_device_that_no_binary_serves_has_no_kernels(folder: Path) -> None:
    with pytest.raises(KernelMissing, match="sm_75"):
        PrecompiledLauncher(folder, 0, RecordingDriver(75)).launch("rms_norm", NORM, (1, 1, 1), norm_arguments())


def test_folders_that_cannot_serve_are_refused_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexMissing):
        PrecompiledLauncher(tmp_path, 0, RecordingDriver())
    replace(Index.read(folder), source="0").write(tmp_path, {})
    with pytest.raises(IndexStale):
        PrecompiledLauncher(tmp_path, 0, RecordingDriver())


def test_a_cubin_that_is_gone_fails_its_launch(folder: Path, tmp_path: Path) -> None:
    Index.read(folder).write(tmp_path, {})
    with pytest.raises(IndexBroken, match="rms_norm"):
        PrecompiledLauncher(tmp_path, 0, RecordingDriver()).launch("rms_norm", NORM, (1, 1, 1), norm_arguments())


def test_a_parameter_of_a_type_that_cannot_be_passed_is_refused() -> None:
    with pytest.raises(ArgumentUnfit, match="fp16"):
        Parameters("gated", [("x", "fp16")], 2)


def test_too_many_values_are_refused() -> None:
    with pytest.raises(ArgumentUnfit, match="gated takes 1 arguments, not 2"):
        Parameters("gated", [("x", "i32")], 2).write([1, 2])


WITHOUT_DEVICE = """
import json, sys
from pathlib import Path
from kernels.gpu import launch
from kernels.gpu.driver import DriverMissing
from kernels.gpu.index import Index
from kernels.gpu.parameters import Parameters
from tests.kernels.values import values_for

index = Index.read(Path(sys.argv[1]))
index.require_current()
for binary in index.binaries:
    Parameters(binary.kernel, binary.arguments, binary.hidden).write(values_for(binary))
modules = sorted(sys.modules)
try:
    launch.open_launcher(Path(sys.argv[1]), 0)
    message = "opened"
except DriverMissing as error:
    message = str(error)
print(json.dumps({"binaries": len(index.binaries), "modules": modules, "message": message}))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_programs_and_device_everything_but_the_launch_works_and_the_driver_is_missed(folder: Path) -> None:
    environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_DEVICE, str(folder)], env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(process.stdout)
    assert told["binaries"] == len(Index.read(folder).binaries) > 10
    assert not {"torch", "triton", "numpy"} & set(told["modules"])
    assert "libcuda.so.1" in told["message"]


def test_without_the_bindings_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DriverMissing, match="pip install cuda-bindings"):
        CudaDriver(0)


WITH_STUB = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace

class Tensor:
    def __init__(self, dtype, address):
        self.dtype, self.data_ptr = dtype, lambda: address

from kernels.gpu.index import Index
from kernels.gpu.launch import _TYPES, open_launcher
from tests.kernels.values import binary_of_each, values_for

sys.modules["torch"] = SimpleNamespace(_C=SimpleNamespace(_cuda_getCurrentRawStream=lambda device: 0x5EED))
folder, sizes = Path(sys.argv[1]), json.loads(sys.argv[2])
names = {f"*{ours}": dtype for dtype, ours in _TYPES.items()}
launcher = open_launcher(folder, 0)
for binary in binary_of_each(Index.read(folder)):
    os.environ["STUB_SIZES"] = ",".join(map(str, sizes[binary.kernel]))
    arguments = [
        Tensor(names[kind], value) if kind in names else value
        for (_, kind), value in zip(binary.arguments, values_for(binary))
    ]
    launcher.launch(binary.kernel, binary.constants, (3, 2, 1), arguments)
assert "triton" not in sys.modules
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a driver library that writes down what it is told."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stub with")
    library = tmp_path_factory.mktemp("stub") / "libcuda.so.1"
    source = Path(__file__).with_name("stub_libcuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library.parent


def run_with_stub(stub: Path, folder: Path, log: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    sizes = {
        binary.kernel: ptx_parameters(compile_variant(Variant(binary.kernel, binary.constants, binary.types), 90).ptx)
        for binary in binary_of_each(Index.read(folder))
    }
    return subprocess.run(
        [sys.executable, "-c", WITH_STUB, str(folder), json.dumps(sizes)], capture_output=True, text=True, check=False,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(stub), "STUB_LOG": str(log), **environment},
    )


def test_the_driver_reads_every_kernels_arguments_as_its_cubin_declares_them(
    stub: Path, folder: Path, tmp_path: Path
) -> None:
    """Through the real bindings: sizes as the assembly has them, and null for what Triton adds."""
    process = run_with_stub(stub, folder, tmp_path / "log")
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    launched = [line.split()[1:] for line in lines if line.startswith("launch")]
    expected = []
    for binary in binary_of_each(Index.read(folder)):
        shape = ["3", "2", "1", str(32 * binary.warps), "1", "1", str(binary.shared), hex(STREAM)]
        kinds = [kind for _, kind in binary.arguments]
        values = zip(kinds, values_for(binary), strict=True)
        packed = [struct.pack(FORMATS.get(kind, "<q"), value).hex() for kind, value in values]
        expected.append([*shape, *packed, "00" * 8, "00" * 8])
    assert sorted(launched) == sorted(expected)
    allowed = {line.split()[2] for line in lines if line.startswith("attribute 8 ")}
    assert allowed == {str(binary.shared) for binary in binary_of_each(Index.read(folder)) if binary.shared > 48 * 1024}


def test_a_launch_that_the_driver_refuses_names_kernel_call_and_code(stub: Path, folder: Path, tmp_path: Path) -> None:
    process = run_with_stub(stub, folder, tmp_path / "log", STUB_FAILS="1")
    assert process.returncode == 1
    assert "DriverFailed: cuLaunchKernel returned 700 (CUDA_ERROR_ILLEGAL_ADDRESS) for kernel " in process.stderr
