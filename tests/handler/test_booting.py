"""What is said of a boot is said before anybody finds the engine ready."""

from __future__ import annotations

import logging

import pytest

from engine.config import EngineConfig
from handler.booting import Boot


def test_who_is_told_that_it_is_ready_finds_the_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    boot, said = Boot("demo"), []
    boot.on_ready(lambda engine: said.append("ready after" in caplog.text))
    boot.begin(EngineConfig(model="demo", kv_memory=64 << 20))
    boot.join().stop()
    assert said == [True]
