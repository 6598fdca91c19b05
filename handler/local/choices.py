"""What the user of `pilotlight up` chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from engine.errors import InvalidConfig
from handler.billing.price_list import choose_prices
from handler.local.management import Mode
from handler.local.queue import MOST_ATTEMPTS
from handler.local.scaler import Scaling

RuntimeName = Literal["process", "podman", "docker"]


@dataclass(frozen=True, slots=True)
class Choices:
    """The endpoint to be made.

    Attributes:
        state: folder of all that it keeps.
        variables: the workers', besides RunPod's.
        image: what containers are made of.
        options: more options of `podman run` or `docker run`.
        price: US dollars a second of one worker; None where it is not known.
        rate_limits: whether RunPod's limits of its clients' requests hold.
        attempts: how often a job is tried whose workers are lost.
        grace_s: how long a worker that is told to stop may take.
    """

    state: Path
    port: int = 8000
    mode: Mode = "queue"
    scaling: Scaling = field(default_factory=Scaling)
    flashboot: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    runtime: RuntimeName = "process"
    image: str | None = None
    options: tuple[str, ...] = ()
    gpu: str | None = None
    price: Decimal | None = None
    api_keys: tuple[str, ...] = ()
    rate_limits: bool = True
    attempts: int = MOST_ATTEMPTS
    grace_s: float = 30.0
    ping_s: int = 10

    def __post_init__(self) -> None:
        """Refuse what does not go together; raises InvalidConfig."""
        if (self.runtime == "process") == (self.image is not None):
            raise InvalidConfig("--image names what --runtime podman or docker runs, and goes with those alone")
        if self.mode == "load-balancer" and self.scaling.kind != "REQUEST_COUNT":
            raise InvalidConfig("a load-balancing endpoint scales by request-count alone: --scaler request-count")
        if self.options and self.runtime == "process":
            raise InvalidConfig("--container-option goes with --runtime podman or docker")


def price_of(gpu: str | None, override: Decimal | None) -> Decimal | None:
    """US dollars a second of a worker with this GPU, by the price list in use; what the user says wins.

    Raises:
        InvalidConfig: the GPU is in no row.
    """
    if override is not None or gpu is None:
        return override
    prices = choose_prices(None)
    row = prices.find(gpu)
    if row is None:
        raise InvalidConfig(f"{gpu!r} is not in the price list of {prices.date}; `pilotlight bill prices` shows it")
    return row.flex
