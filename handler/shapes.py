"""The shapes of RunPod's answers and of errors, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]


class ErrorDetail(TypedDict):
    """What is wrong; `param` is the field at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    """An error in OpenAI's shape."""

    error: ErrorDetail


class RunPodError(TypedDict):
    """An error in RunPod's shape."""

    error: str


class JobState(TypedDict):
    """A job's id and state."""

    id: str
    status: State


class JobView(JobState):
    """A job, its times in milliseconds, and what came of it."""

    delayTime: NotRequired[int]
    executionTime: NotRequired[int]
    workerId: NotRequired[str]
    output: NotRequired[Any]
    error: NotRequired[str]


class StreamedOutput(TypedDict):
    """One part of a job's output."""

    output: Any


class JobStream(JobState):
    """What has come since the last call; `attempt` where the worker is not the first that has the job."""

    stream: list[StreamedOutput]
    attempt: NotRequired[int]


class EndpointHealth(TypedDict):
    """How many jobs and workers are in each state."""

    jobs: dict[str, int]
    workers: dict[str, int]


class Purged(TypedDict):
    """How many waiting jobs were cancelled."""

    removed: int
    status: Literal["completed"]


class JobViews(TypedDict):
    """All jobs that are known."""

    requests: list[JobView]


class ProblemBody(TypedDict):
    """An error of the management API, in the shape of RFC 9457; `errors` has one line for each field at fault."""

    title: str
    status: int
    detail: str
    errors: list[str]
