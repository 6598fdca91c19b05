"""RunPod's APIs as far as the warmer needs them: see an endpoint, change how many workers it keeps, send a ping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from warmup.errors import WarmerError

if TYPE_CHECKING:
    import httpx

USER_AGENT: Final = "pilotlight-warmer/0.1"
"""RunPod's front refuses clients that name none (reported in several of its users' repositories)."""

SHORTEST_TTL_S: Final = 10.0
"""RunPod's documentation, "Send requests": a job's `ttl` is from ten seconds to a week."""

_MOST_BYTES: Final = 1 << 20
_LONGEST_PAUSE_S: Final = 3600.0


class ApiTrouble(WarmerError):
    """RunPod's API did not do what it was asked. The message never holds the key.

    Attributes:
        retry_after_s: when it is worth another try, if it said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ApiDown(ApiTrouble):
    """It cannot be reached, or answers with 5xx."""


class ApiSlow(ApiTrouble):
    """It did not answer in time."""


class ApiLimited(ApiTrouble):
    """It was called too often."""


class ApiRefused(ApiTrouble):
    """It said no, and will until somebody changes something."""


class ApiNonsense(ApiTrouble):
    """Its answer has not the documented shape."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the endpoint is set.

    Attributes:
        kind: RunPod's scaler.
        idle_timeout: whole seconds; None where the endpoint has none (queue endpoints with REQUEST_COUNT).
    """

    kind: Literal["QUEUE_DELAY", "REQUEST_COUNT"]
    workers_min: int
    workers_max: int
    idle_timeout: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """What the endpoint does now: jobs and workers by state; `done` counts jobs that have ended since ever."""

    in_queue: int
    in_progress: int
    done: int
    idle: int
    running: int
    initializing: int

    @property
    def is_busy(self) -> bool:
        """Whether a job runs or waits."""
        return self.in_queue + self.in_progress > 0

    @property
    def ready(self) -> int:
        """Workers that can take a job, or have one."""
        return self.idle + self.running

    @property
    def up(self) -> int:
        """Workers that are billed."""
        return self.ready + self.initializing


@dataclass(frozen=True, slots=True)
class Change:
    """What the warmer may change of an endpoint, and nothing else: no field here makes a new release."""

    workers_min: int | None = None
    idle_timeout: int | None = None

    def body(self) -> dict[str, dict[str, int]]:
        """The PATCH."""
        given = {"min": self.workers_min, "idleTimeout": self.idle_timeout}
        return {"workers": {name: value for name, value in given.items() if value is not None}}


class Endpoint(Protocol):
    """An endpoint that is kept warm. Every method may raise ApiTrouble."""

    def scaling(self) -> Scaling:
        """How it is set."""

    def health(self) -> Health:
        """What it does."""

    def change(self, change: Change) -> Scaling:
        """Set it, and give how it is set then."""

    def ping(self, ttl_s: float) -> str:
        """Send a warm-up, which is dropped if it is not done in time, and give its id."""


class EndpointApi:
    """An endpoint by HTTP.

    Args:
        endpoint: its id.
        api: where the management API is.
        client: where the client API is.
        timeout: seconds that each step of an exchange may take.
    """

    def __init__(self, endpoint: str, key: str, api: str, client: str, timeout: float = 10.0) -> None:
        self._managed = f"{api.rstrip('/')}/serverless/{endpoint}"
        self._client = f"{client.rstrip('/')}/{endpoint}"
        self._key = key
        self._timeout = timeout
        self._connected: httpx.Client | None = None

    def scaling(self) -> Scaling:
        """`GET /v2/serverless/{id}`."""
        return _scaling(self._ask("GET", self._managed))

    def change(self, change: Change) -> Scaling:
        """`PATCH /v2/serverless/{id}`."""
        return _scaling(self._ask("PATCH", self._managed, change.body()))

    def health(self) -> Health:
        """`GET /v2/{id}/health`."""
        return _health(self._ask("GET", f"{self._client}/health"))

    def ping(self, ttl_s: float) -> str:
        """`POST /v2/{id}/run`."""
        milliseconds = round(1000 * max(ttl_s, SHORTEST_TTL_S))
        answer = self._ask("POST", f"{self._client}/run", {"input": {"warmup": True}, "policy": {"ttl": milliseconds}})
        return str(_field(answer, str, "id"))

    def _ask(self, method: str, url: str, body: object = None) -> Any:
        import httpx

        what = f"{method} {_plain(url)}"
        try:
            with self._http().stream(method, url, json=body) as response:
                raw = self._read(response, what)
        except httpx.TimeoutException:
            raise ApiSlow(f"{what}: no answer in {self._timeout:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise ApiDown(f"{what}: {self._one_line(str(error)) or type(error).__name__}") from None
        if not response.is_success:
            raise self._refusal(what, response, raw)
        return _parsed(raw, what)

    def _http(self) -> httpx.Client:
        import httpx

        if self._connected is None:
            headers = {"Authorization": f"Bearer {self._key}", "User-Agent": USER_AGENT, "Accept": "application/json"}
            self._connected = httpx.Client(timeout=self._timeout, headers=headers)
        return self._connected

    def _read(self, response: httpx.Response, what: str) -> bytes:
        raw = bytearray()
        for part in response.iter_bytes():
            raw += part
            if len(raw) > _MOST_BYTES:
                raise ApiNonsense(f"{what}: the answer is longer than {_MOST_BYTES} bytes")
        return bytes(raw)

    def _refusal(self, what: str, response: httpx.Response, raw: bytes) -> ApiTrouble:
        """RFC 9457's title and detail where the answer has them; when to come again where a header says it."""
        status, pause = response.status_code, retry_after(response.headers)
        message = f"{what}: HTTP {status}{self._said(raw)}"
        if status == 429:
            return ApiLimited(message, pause)
        if status >= 500 or status in (408, 409, 425):
            return ApiDown(message, pause)
        return ApiRefused(f"{message} (is RUNPOD_API_KEY right?)" if status in (401, 403) else message)

    def _said(self, raw: bytes) -> str:
        import json

        try:
            problem = json.loads(raw)
        except (ValueError, RecursionError):
            return ""
        fields = problem if isinstance(problem, dict) else {}
        said = [str(fields[name]) for name in ("title", "detail", "error") if fields.get(name)]
        return f", {self._one_line(': '.join(said))}" if said else ""

    def _one_line(self, text: str) -> str:
        shown = text.replace(self._key, "[key]") if self._key else text
        return " ".join(shown.split())[:200]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until another call may succeed, by `Retry-After` or by the windows of `RateLimit` that are used up."""
    used_up = [float(seconds) for seconds in re.findall(r";r=0;t=(\d{1,9})", headers.get("RateLimit", ""))]
    told = headers.get("Retry-After", "")
    pauses = [*used_up, *([float(told)] if re.fullmatch(r"\d{1,9}", told) else [])]
    return min(max(pauses), _LONGEST_PAUSE_S) if pauses else None


def _plain(url: str) -> str:
    """Without what an address may hold that nobody should read."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def _parsed(raw: bytes, what: str) -> Any:
    import json

    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        raise ApiNonsense(f"{what}: the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise ApiNonsense(f"{what}: the answer is no object")
    return answer


def _field(answer: Any, kind: type, *path: str) -> Any:
    """What stands in an answer under this path."""
    found = answer
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise ApiNonsense(f"the answer has no {'.'.join(path)}, or it is of another kind than documented")
    return found


def _count(answer: Any, *path: str) -> int:
    count = int(_field(answer, int, *path))
    if count < 0:
        raise ApiNonsense(f"the answer's {'.'.join(path)} is {count}")
    return count


def _scaling(answer: Any) -> Scaling:
    kind = _field(answer, str, "scaling", "type")
    if kind not in ("QUEUE_DELAY", "REQUEST_COUNT"):
        raise ApiNonsense(f"the answer's scaling.type is {kind[:40]!r}, which is not documented")
    has_idle = "idleTimeout" in _field(answer, dict, "workers") and answer["workers"]["idleTimeout"] is not None
    return Scaling(
        kind, _count(answer, "workers", "min"), _count(answer, "workers", "max"),
        _count(answer, "workers", "idleTimeout") if has_idle else None,
    )


def _health(answer: Any) -> Health:
    """Two of RunPod's recorded answers name only some of the workers' states; what is not named is none."""
    jobs, workers = _field(answer, dict, "jobs"), _field(answer, dict, "workers")

    def named(name: str) -> int:
        return _count(workers, name) if name in workers else 0

    return Health(
        _count(jobs, "inQueue"), _count(jobs, "inProgress"), _count(jobs, "completed") + _count(jobs, "failed"),
        named("idle"), named("running"), named("initializing"),
    )
