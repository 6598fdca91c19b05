"""Rotary frequencies and how they are stretched for longer contexts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rope:
    """Frequencies of a rotary embedding.

    Attributes:
        inverse_frequencies: radians a position, head_dim / 2 of them.
        scale: multiplies cosines and sines.
    """

    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0

    @classmethod
    def read(cls, parameters: dict[str, Any], head_dim: int, context: int) -> Rope:
        """From `rope_parameters` (or `rope_scaling` with `rope_theta` added) of a `config.json`.

        Raises:
            ValueError: an unknown kind, naming it and those known, or a parameter that is missing or out of range.
        """
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"rope type {kind} is not known; known are {', '.join(_KINDS)}")
        if parameters.get("partial_rotary_factor", 1) != 1:
            raise ValueError("rope with a partial_rotary_factor is not known")
        try:
            theta = float(parameters.get("rope_theta", 10_000.0))
            if theta <= 0:
                raise ValueError("rope_theta must be above 0")
            plain = [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
            given = {"head_dim": head_dim, "context": context, **parameters, "rope_theta": theta}
            rope = _KINDS[kind](plain, given)
            if not all(math.isfinite(value) for value in (*rope.inverse_frequencies, rope.scale)):
                raise ValueError("its parameters give frequencies that are not numbers")
            return rope
        except KeyError as missing:
            raise ValueError(f"rope type {kind} needs {missing.args[0]}") from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"rope type {kind}: {error}") from None


def _default(plain: list[float], parameters: dict[str, Any]) -> Rope:
    return Rope(tuple(plain))


def _linear(plain: list[float], parameters: dict[str, Any]) -> Rope:
    """Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595)."""
    return Rope(tuple(frequency / parameters["factor"] for frequency in plain))


def _llama3(plain: list[float], parameters: dict[str, Any]) -> Rope:
    """Llama 3.1's: long waves stretched, short ones kept, those between blended."""
    factor, original = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    stretched = []
    for frequency in plain:
        waves = original * frequency / (2 * math.pi)
        kept = min(1.0, max(0.0, (waves - low) / (high - low)))
        stretched.append(kept * frequency + (1 - kept) * frequency / factor)
    return Rope(tuple(stretched))


def _yarn(plain: list[float], parameters: dict[str, Any]) -> Rope:
    """YaRN (Peng et al. 2023, arXiv:2309.00071), equations 19 to 22."""
    head_dim, theta = parameters["head_dim"], parameters["rope_theta"]
    original = parameters.get("original_max_position_embeddings") or parameters["context"]
    factor = parameters["factor"]
    fast, slow = parameters.get("beta_fast") or 32, parameters.get("beta_slow") or 1

    def turning(rotations: float) -> float:
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = turning(fast), turning(slow)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = max(high - low, 0.001)
    stretched = []
    for index, frequency in enumerate(plain):
        interpolated = min(1.0, max(0.0, (index - low) / span))
        stretched.append(interpolated * frequency / factor + (1 - interpolated) * frequency)
    return Rope(tuple(stretched), _yarn_scale(parameters, factor))


def _yarn_scale(parameters: dict[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return scale(parameters["mscale"]) / scale(parameters["mscale_all_dim"])
    return scale(1.0)


_KINDS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
