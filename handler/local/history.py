"""What is written down of jobs, and jobs as they were from what is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from handler.local.job import Job
from handler.local.record import Entry


def submitted(job: Job) -> Entry:
    """It was queued."""
    return job.submission()


def ended(job: Job) -> Entry:
    """It has reached a final state."""
    return job.ending()


def retried(job: Job) -> Entry:
    """A client has asked for it again."""
    return {"kind": "retry", "job": job.id, "created": job.created}


def told(job: Job) -> Entry:
    """Its webhook need not be called any more."""
    return {"kind": "told", "job": job.id}


def forgotten(job: Job) -> Entry:
    """Nothing more is known of it."""
    return {"kind": "forgotten", "job": job.id}


def entries_of(jobs: Iterable[Job]) -> Iterator[Entry]:
    """All that must be written to have the same jobs again."""
    for job in jobs:
        yield submitted(job)
        if job.is_final:
            yield ended(job)
        if job.told:
            yield told(job)


def restore(entries: Iterable[Entry]) -> list[Job]:
    """The jobs of a queue that is no more, in their order; those that were being worked on wait again."""
    jobs: dict[str, Job] = {}
    number = 0
    for number, entry in enumerate(entries, 1):
        _restore(jobs, entry, number)
    return sorted(jobs.values(), key=lambda job: job.number)


def _restore(jobs: dict[str, Job], entry: Entry, number: int) -> None:
    kind, job_id = entry["kind"], entry["job"]
    if kind == "submission":
        jobs[job_id] = Job.from_submission(entry, number)
    elif job_id not in jobs:
        return
    elif kind == "ending":
        if jobs[job_id].is_final:  # The retry between two ends was damaged.
            jobs[job_id].wait_again()
        jobs[job_id].restore_ending(entry)
    elif kind == "retry":
        jobs[job_id].ask_again(number, entry["created"])
    elif kind == "told":
        jobs[job_id].told = True
    elif kind == "forgotten":
        del jobs[job_id]
