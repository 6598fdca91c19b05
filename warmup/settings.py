"""What the user of the warmer chose: options, or the environment's `PILOTLIGHT_WARM_*`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from warmup.costs import MOST
from warmup.errors import InvalidSetting

MANAGEMENT_URL: Final = "https://api.runpod.io/v2"
CLIENT_URL: Final = "https://api.runpod.ai/v2"
"""RunPod's two APIs: the one that changes endpoints, and the one that takes jobs."""

BOOT_LIMIT_S: Final = 420.0
"""After which RunPod gives a boot up (its documentation, `RUNPOD_INIT_TIMEOUT`)."""

_LAST_PORT: Final = 65535

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "endpoint": ("PILOTLIGHT_WARM_ENDPOINT", "RUNPOD_ENDPOINT_ID"),
    "api": ("PILOTLIGHT_RUNPOD_API",),
    "client": ("RUNPOD_ENDPOINT_BASE_URL",),
    "key": ("RUNPOD_API_KEY",),
    "ledger": ("PILOTLIGHT_WARM_LEDGER", "PILOTLIGHT_LEDGER"),
}
"""Variables; a setting that is not here has the one that its own name makes, such as PILOTLIGHT_WARM_BUDGET_DAY."""

_YES: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of the warmer. Times are seconds, amounts US dollars.

    Attributes:
        endpoint: its id.
        api: where RunPod's management API is.
        client: where its client API is.
        key: RunPod's API key.
        policy: as `pilotlight warm simulate` takes them.
        wait_value: how many seconds of the worker a second of a user's waiting is worth.
        price: a second of a worker; None for what the ledger says.
        active_price: a second of a worker that min workers hold; None for the same.
        cold_seconds: a cold start, until the ledger shows how long they take.
        boot_limit: after which the platform gives a boot up; so much is set aside for a ping that may start a worker.
        budget_day: the most that is spent on warming in a day, in UTC; `budget_month` in a month.
        ledger: where the workers' ledger is; None: there is none to learn from.
        state: where the warmer's memory is: a folder, or `s3://BUCKET/PREFIX`.
        tick: from look to look.
        outage: for which a floor of workers is paid in advance, in case nobody can take it back meanwhile.
        timeout: of each call.
        dry_run: say what would be done, and do nothing.
        stop: the kill switch: take back what was set, and do nothing more. A file STOP beside the state is the same.
        alone: no other warmer shares the state, so that it may lie where writes cannot be conditional.
        metrics_port: where `/metrics` is served; None: nowhere.
        metrics_host: and to whom.
    """

    endpoint: str = ""
    api: str = MANAGEMENT_URL
    client: str = CLIENT_URL
    key: str = field(default="", repr=False)
    policy: str = "learned"
    wait_value: float = 5.0
    price: float | None = None
    active_price: float | None = None
    cold_seconds: float = 20.0
    boot_limit: float = BOOT_LIMIT_S
    budget_day: float = math.inf
    budget_month: float = math.inf
    ledger: str | None = None
    state: str = ""
    tick: float = 10.0
    outage: float = 60.0
    timeout: float = 10.0
    dry_run: bool = False
    stop: bool = False
    alone: bool = False
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        """Refuse what nobody could carry out; raises InvalidSetting."""
        if not self.endpoint or not self.endpoint.replace("-", "").replace("_", "").isalnum():
            raise InvalidSetting("which endpoint? --endpoint or RUNPOD_ENDPOINT_ID names it by its id")
        if not self.key.isascii() or not self.key.isprintable():
            raise InvalidSetting("RUNPOD_API_KEY is no key: it holds characters that no header can carry")
        for name in ("tick", "timeout", "cold_seconds", "boot_limit"):
            if not 0.05 <= getattr(self, name) < math.inf:
                raise InvalidSetting(f"{name.replace('_', ' ')}: {getattr(self, name):g} s is too short or no time")
        for name in ("budget_day", "budget_month"):
            if not getattr(self, name) >= 0:
                raise InvalidSetting(f"{name.replace('_', ' ')}: {getattr(self, name):g} is no amount")
        for name in ("price", "active_price", "wait_value", "outage"):
            if not 0 <= (getattr(self, name) or 0.0) <= MOST:
                raise InvalidSetting(f"{name.replace('_', ' ')}: {getattr(self, name):g} is not from 0 to {MOST:,.0f}")
        if not 0 <= (self.metrics_port or 0) <= _LAST_PORT:
            raise InvalidSetting(f"metrics port: {self.metrics_port} is not from 0 to {_LAST_PORT}")

    @property
    def is_at_runpod(self) -> bool:
        """Whether anything is asked of RunPod itself, which answers nobody without a key."""
        return self.api == MANAGEMENT_URL or self.client == CLIENT_URL


def read_settings(environment: Mapping[str, str] = os.environ, **options: Any) -> Settings:
    """Settings from the environment; `options`, under the fields' names, win where they are not None.

    Raises:
        InvalidSetting: one line naming the variable or the option, and its value's fault.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for chosen in fields(Settings):
        if chosen.name not in given and (found := _found(chosen.name, environment)):
            given[chosen.name] = _read(found[0], found[1], str(chosen.type))
    given["key"] = str(given.get("key", "")).strip()
    given.setdefault("state", str(_default_state(environment)))
    return Settings(**given)


def _found(name: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    variables = _NAMES.get(name, (f"PILOTLIGHT_WARM_{name.upper()}",))
    return next(((variable, environment[variable]) for variable in variables if environment.get(variable)), None)


def _read(variable: str, text: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return _YES[text.strip().lower()]
        if kind.startswith("int"):
            return int(text)
        return float(text) if kind.startswith("float") else text
    except (ValueError, KeyError):
        raise InvalidSetting(f"{variable}: {text} is no {'number' if kind != 'bool' else 'yes or no'}") from None


def _default_state(environment: Mapping[str, str]) -> Path:
    """A folder of the user's, by XDG's specification."""
    home = environment.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - knows no home, too.
    return Path(home, "pilotlight", "warmer")
