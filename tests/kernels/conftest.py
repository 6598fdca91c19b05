"""GPU kernels on whatever is here: the device where there is one, else Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from kernels.gpu.launcher import Launcher


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def launcher(device: torch.device) -> Launcher:
    pytest.importorskip("triton")
    if device.type == "cpu":
        from tests.kernels.interpreter import InterpretingLauncher

        return InterpretingLauncher()
    from kernels.gpu.triton.launcher import TritonLauncher

    return TritonLauncher()


@pytest.fixture(params=[torch.float32, torch.float16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What kernels are tested in: the interpreter's matrix product is wrong in bfloat16."""
    return request.param


@pytest.fixture
def uninitialised_is_nan() -> Iterator[None]:
    """What a kernel should have written and did not is not a number: torch fills `empty` tensors in this mode."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)
