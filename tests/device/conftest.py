"""What runs only where there is a CUDA device: `pytest tests/device`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Say of every test here why it is left out, where it is."""
    if not torch.cuda.is_available():
        for item in items:
            if "tests/device/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
