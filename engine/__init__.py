"""Tokens in, tokens out: the engine.

`LLM` is the way in for programs, `Engine` for servers; importing this package imports neither, nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import EngineConfig as EngineConfig
    from engine.engine import Engine as Engine
    from engine.llm import LLM as LLM
    from engine.request import SamplingParams as SamplingParams

_HOME = {"LLM": "llm", "Engine": "engine", "EngineConfig": "config", "SamplingParams": "request"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"engine.{_HOME[name]}"), name)
