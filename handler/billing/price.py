"""What a worker's second costs. Money is decimal throughout: binary fractions do not hold $0.00031."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

PriceKind = Literal["flex", "active"]
"""RunPod's two rates: of workers that come and go, and of those that are always there."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one worker, all its GPUs together.

    Attributes:
        per_second: US dollars; None where the GPU is in no price list. Seconds are recorded all the same.
        kind: which of the two rates.
        date: of the price list, YYYY-MM-DD; None where the user set the price.
    """

    per_second: Decimal | None = None
    kind: PriceKind = "flex"
    date: str | None = None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Price:
        """The price that a line names."""
        return cls(None if line["price"] is None else Decimal(line["price"]), line["price_kind"], line["price_date"])

    def cost(self, milliseconds: int) -> str | None:
        """The exact cost in US dollars, as plain decimal text; None where the price is not known."""
        return None if self.per_second is None else plain(self.per_second * milliseconds / 1000)


def plain(amount: Decimal) -> str:
    """An amount without an exponent and without trailing zeros."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
