"""The one way to start a kernel; what stands behind it is compiled ahead (service) or on demand (development)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from kernels.gpu.specification import Constant


class Launcher(Protocol):
    """Starts kernels on torch's current stream."""

    @property
    def compilations(self) -> int:
        """Kernel variants compiled since this launcher was made; 0 in service."""
        ...

    def launch(
        self, kernel: str, constants: Mapping[str, Constant], grid: tuple[int, int, int],
        arguments: Sequence[Tensor | int | float],
    ) -> None:
        """Start one kernel and return at once.

        Args:
            kernel: a `KernelSpec`'s name.
            constants: the kernel's compile-time constants, `num_warps` and `num_stages`.
            grid: programs in each dimension; nothing is started where one of them is 0.
            arguments: the values of the `KernelSpec`'s arguments, in order. The element types of the tensors, with the
                constants, choose the variant.
        """
        ...
