"""Kernels compiled ahead, loaded when first launched: how service launches, with neither Triton nor a compiler.

Neither torch nor Triton is imported for it: torch is asked for its current stream, which whoever has tensors on a GPU
has imported.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from kernels.gpu.driver import CudaDriver
from kernels.gpu.index import Binary, Index, IndexMissing, IndexStale, Key
from kernels.gpu.parameters import ArgumentUnfit, Parameters
from kernels.gpu.specification import POINTER_ALIGNMENT, Constant

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.gpu.launcher import Launcher

_log = logging.getLogger(__name__)

_TYPES = {
    "torch.float16": "fp16", "torch.bfloat16": "bf16", "torch.float32": "fp32", "torch.float64": "fp64",
    "torch.int8": "i8", "torch.uint8": "u8", "torch.int16": "i16", "torch.int32": "i32", "torch.int64": "i64",
    "torch.bool": "i1",
}


class KernelMissing(LookupError):
    """A variant that was not compiled for this device.

    Attributes:
        key: what was asked for.
        capability: the device's, 90 for 9.0.
    """

    def __init__(self, key: Key, capability: int, folder: Path) -> None:
        kernel, constants, pointers = key
        values = ", ".join(f"{name}={value}" for name, value in sorted(constants))
        types = ", ".join(pointer for pointer in pointers if pointer)
        command = f"python -m kernels.precompile --arch {capability} --model MODEL_FOLDER {folder}"
        super().__init__(
            f"kernel {kernel} ({types}; {values}) is not compiled for sm_{capability} in {folder}; to do so: {command}"
        )
        self.key = key
        self.capability = capability


class Driver(Protocol):
    """What is asked of the device's driver; see `CudaDriver`."""

    capability: int

    def load(self, kernel: str, cubin: bytes, function: str, shared: int) -> Any: ...

    def launch(
        self, kernel: str, handle: Any, grid: tuple[int, int, int], warps: int, shared: int, stream: int,
        parameters: int,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Loaded:
    binary: Binary
    handle: Any
    parameters: Parameters
    lock: Lock
    """Held from writing the parameters until the driver has copied them."""


class PrecompiledLauncher:
    """The launcher of service; see `kernels.gpu.launcher.Launcher`. Safe to call from several threads.

    Args:
        folder: what `python -m kernels.precompile` wrote.
        device: ordinal of the device, torch's current one.
        driver: the device's driver.
        development: compiles and launches what is missing, counted and logged; None lets that fail.

    Raises:
        IndexMissing, IndexBroken, IndexStale: the folder is not one of ours, or not of these kernels.
    """

    def __init__(self, folder: Path, device: int, driver: Driver, development: Launcher | None = None) -> None:
        index = Index.read(folder)
        index.require_current()
        self._folder = folder
        self._device = device
        self._driver = driver
        self._development = development
        self._binaries = index.for_device(driver.capability)
        self._loaded: dict[Key, _Loaded] = {}
        self._loading = Lock()

    @property
    def compilations(self) -> int:
        """Kernel variants compiled since this launcher was made: none, but in development."""
        return self._development.compilations if self._development else 0

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        """Start one kernel on torch's current stream.

        Raises:
            KernelMissing: the variant was not compiled for this device, and this is not development.
            ArgumentUnfit: an argument is not of its parameter's type, or a tensor starts at an odd address.
            IndexBroken, DriverFailed: the kernel cannot be loaded, or not be started.
        """
        if not all(grid):
            return
        pointers, values = _split(kernel, arguments)
        key = (kernel, frozenset(constants.items()), pointers)
        loaded = self._loaded.get(key) or self._load(key)
        if loaded is None:
            self._compile_and_launch(key, constants, grid, arguments)
            return
        binary = loaded.binary
        with loaded.lock:
            loaded.parameters.write(values)
            self._driver.launch(
                kernel, loaded.handle, grid, binary.warps, binary.shared, _current_stream(self._device),
                loaded.parameters.address,
            )

    def _load(self, key: Key) -> _Loaded | None:
        """The variant, loaded; None where it is missing and development goes on without it."""
        binary = self._binaries.get(key)
        if binary is None:
            if self._development is None:
                raise KernelMissing(key, self._driver.capability, self._folder)
            return None
        with self._loading:
            if key not in self._loaded:
                cubin = binary.read(self._folder)
                handle = self._driver.load(binary.kernel, cubin, binary.function, binary.shared)
                parameters = Parameters(binary.kernel, binary.arguments, binary.hidden)
                self._loaded[key] = _Loaded(binary, handle, parameters, Lock())
        return self._loaded[key]

    def _compile_and_launch(
        self, key: Key, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        assert self._development is not None, "_load raised otherwise"
        before = self._development.compilations
        self._development.launch(key[0], constants, grid, arguments)
        if self._development.compilations > before:
            _log.warning("compiled in service: %s", KernelMissing(key, self._driver.capability, self._folder))


def open_launcher(folder: Path, device: int, development: bool = False) -> Launcher:
    """The launcher for a device.

    Args:
        folder: what `python -m kernels.precompile` wrote.
        device: ordinal of the device, torch's current one.
        development: let Triton compile what the folder lacks, all of it if need be.

    Raises:
        IndexMissing, IndexBroken, IndexStale: the folder is not one of ours, or not of these kernels.
        DriverMissing, DriverFailed: the device cannot be talked to.
    """
    if not development:
        return PrecompiledLauncher(folder, device, CudaDriver(device))
    from kernels.gpu.triton.launcher import TritonLauncher

    try:
        return PrecompiledLauncher(folder, device, CudaDriver(device), TritonLauncher())
    except (IndexMissing, IndexStale) as error:
        _log.warning("development: Triton compiles every kernel in service: %s", error)
        return TritonLauncher()


def _split(kernel: str, arguments: Sequence[Tensor | int | float]) -> tuple[tuple[str | None, ...], list[int | float]]:
    """For each argument its pointer type, or None for a number; and the values that the kernel gets."""
    pointers: list[str | None] = []
    values: list[int | float] = []
    addresses = 0
    for argument in arguments:
        if isinstance(argument, int | float):
            pointers.append(None)
            values.append(argument)
        else:
            address = argument.data_ptr()
            addresses |= address
            pointers.append(_pointer_type(argument.dtype))
            values.append(address)
    if addresses % POINTER_ALIGNMENT:
        raise ArgumentUnfit(f"{kernel}: a tensor's address is not a multiple of {POINTER_ALIGNMENT}")
    return tuple(pointers), values


@cache
def _pointer_type(dtype: object) -> str:
    return f"*{_TYPES.get(str(dtype), str(dtype))}"


def _current_stream(device: int) -> int:
    """The address of the stream that torch would launch on; torch's public way costs an object and a lookup more."""
    return int(sys.modules["torch"]._C._cuda_getCurrentRawStream(device))  # noqa: SLF001
