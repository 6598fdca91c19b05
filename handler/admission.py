"""Who is let in, with what allowance, and how many were not."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from handler.api_keys import ApiKey
from handler.caller import Caller
from handler.keyring import Keyring
from handler.openai.errors import unauthorised
from handler.rate_limits import Allowance, Limits
from handler.settings import Settings

ANYONE: Final = "anyone"
"""Who calls where no key is asked for; all callers are then one."""


class Admission:
    """One for the process; only its event loop may use it.

    Attributes:
        requests: let in, by the key's name.
        refusals: by the key's name and the error's code; without a right key by the name "unknown".
        slow_readers: connections cut because their client did not read.

    Raises:
        InvalidConfig: the file of keys cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = Keyring(settings.api_keys, settings.api_keys_file)
        self.requests: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.slow_readers = 0
        self._defaults = Limits(settings.requests_per_minute, settings.tokens_per_minute)
        self._allowances: dict[str, Allowance] = {}

    def identify(self, authorization: str, timeout_s: float | None = None) -> Caller:
        """The caller who shows this header; raises `ApiError` 401 without a right key.

        Args:
            timeout_s: how long from now the caller will wait.
        """
        key = self.keys.find(_shown_key(authorization)) if self.keys.needed else None
        if key is None and self.keys.needed:
            self.refusals["unknown", "invalid_api_key"] += 1
            raise unauthorised()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        name = ANYONE if key is None else key.name
        return Caller(
            None if key is None else key.digest.hex(), name=name, allowance=self._allowance(name, key),
            deadline=deadline,
        )

    def refused(self, caller: Caller, code: str) -> None:
        """Count a request that was not let in."""
        self.refusals[caller.name, code] += 1

    def admitted(self, caller: Caller) -> None:
        """Count a request that was let in."""
        self.requests[caller.name] += 1

    def slow_reader_cut(self) -> None:
        """Count a connection that was cut."""
        self.slow_readers += 1

    def _allowance(self, name: str, key: ApiKey | None) -> Allowance:
        limits = self._defaults if key is None else key.limits.or_else(self._defaults)
        allowance = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = Allowance(limits)
        allowance.change(limits)
        return allowance


def _shown_key(header: str) -> str:
    """The key of `Bearer KEY`; a bare key is taken too, as RunPod takes it."""
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else header
