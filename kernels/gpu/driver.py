"""The CUDA driver's few calls that a launch needs, through `cuda-bindings`; every return code is looked at."""

from __future__ import annotations

import threading
from typing import Any

_DEFAULT_SHARED = 48 * 1024
"""Bytes of dynamic shared memory that a kernel may take without being allowed more."""

_WARP = 32


class DriverMissing(RuntimeError):
    """There is no CUDA driver to talk to, or no `cuda-bindings` to talk to it with."""


class DriverFailed(RuntimeError):
    """A call of the driver failed.

    Attributes:
        call: the driver's function.
        code: its `CUresult`.
        kernel: the kernel it was for, if it was for one.
    """

    def __init__(self, call: str, code: int, name: str, kernel: str | None) -> None:
        super().__init__(f"{call} returned {code} ({name})" + (f" for kernel {kernel}" if kernel else ""))
        self.call = call
        self.code = code
        self.kernel = kernel


class CudaDriver:
    """One device and its primary context, the one that torch uses.

    Args:
        device: its ordinal; it must be torch's current device whenever a kernel is launched.

    Raises:
        DriverMissing: see there.
        DriverFailed: there is no such device, or it is out of order.
    """

    def __init__(self, device: int) -> None:
        self._cuda = _bindings()
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._thread = _Thread()
        attribute = self._cuda.CUdevice_attribute
        self._shared_limit = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        major = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        self.capability: int = 10 * major + self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        """90 for 9.0."""

    def load(self, kernel: str, cubin: bytes, function: str, shared: int) -> Any:
        """Load a cubin for as long as the process lives, and return a handle to one of its functions.

        Args:
            shared: bytes of dynamic shared memory that launches will ask for.

        Raises:
            DriverFailed: the driver refused the cubin, or the device has not as much shared memory.
        """
        self._bind()
        module = self._call("cuModuleLoadData", cubin, kernel=kernel)
        handle = self._call("cuModuleGetFunction", module, function.encode(), kernel=kernel)
        if shared > _DEFAULT_SHARED:
            attribute = self._cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._call("cuFuncSetAttribute", handle, attribute, min(shared, self._shared_limit), kernel=kernel)
        return handle

    def launch(
        self, kernel: str, handle: Any, grid: tuple[int, int, int], warps: int, shared: int, stream: int,
        parameters: int,
    ) -> None:
        """Start a function on a stream.

        Args:
            stream: the stream's address; 0 is the default stream.
            parameters: address of the array of pointers to the parameters.

        Raises:
            DriverFailed: the launch was refused, or work started earlier has failed since.
        """
        self._bind()
        self._call("cuLaunchKernel", handle, *grid, _WARP * warps, 1, 1, shared, stream, parameters, 0, kernel=kernel)

    def _attribute(self, attribute: Any) -> int:
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _bind(self) -> None:
        """Give a thread that has no context the device's own; torch does so only when it first calls the runtime."""
        if self._thread.bound:
            return
        if int(self._call("cuCtxGetCurrent")) == 0:
            self._call("cuCtxSetCurrent", self._context)
        self._thread.bound = True

    def _call(self, name: str, *arguments: Any, kernel: str | None = None) -> Any:
        code, *results = getattr(self._cuda, name)(*arguments)
        if code != 0:
            raise DriverFailed(name, int(code), getattr(code, "name", "unknown"), kernel)
        return results[0] if results else None


class _Thread(threading.local):
    bound = False


def _bindings() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DriverMissing("the GPU kernels are launched through cuda-bindings: pip install cuda-bindings") from error
    try:
        driver.cuDriverGetVersion()
    except (RuntimeError, OSError) as error:
        raise DriverMissing(f"libcuda.so.1, which comes with NVIDIA's driver, cannot be loaded: {error}") from error
    return driver
