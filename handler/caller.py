"""On whose behalf a request comes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of a request beside its body.

    Attributes:
        api_key: the key that was shown, and so whose cached prefixes may be used; None where none is asked for.
        job: RunPod's id of the job, where it came as one.
        tenant: whom the ledger is to name, where a job says so.
    """

    api_key: str | None = None
    job: str | None = None
    tenant: str | None = None
