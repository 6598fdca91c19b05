"""What tests of baking share."""

from __future__ import annotations

from pathlib import Path

import pytest

from image.bake import bake


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, baked; to be read, not to be changed."""
    out = tmp_path_factory.mktemp("baked") / "demo"
    bake("demo", out)
    return out
