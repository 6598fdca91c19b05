"""On whose behalf a request comes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from handler.rate_limits import Allowance


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request beside its body.

    Attributes:
        api_key: what tells the shown key from others (its digest), and so whose cached prefixes may be used; None where
            no key is asked for.
        job: RunPod's id of the job, where it came as one.
        tenant: whom the ledger is to name, where a job says so.
        name: the key's name, for metrics.
        allowance: what the caller may still ask for; None is no limit.
        deadline: monotonic seconds after which nobody waits for the answer.
    """

    api_key: str | None = None
    job: str | None = None
    tenant: str | None = None
    name: str = ""
    allowance: Allowance | None = None
    deadline: float | None = None

    @property
    def remaining_s(self) -> float | None:
        """Seconds to the deadline, 0 once it has passed; None where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
