"""RunPod's queue worker: our engine behind RunPod's own loop (`runpod.serverless.start`)."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from threading import Timer
from types import ModuleType
from typing import TYPE_CHECKING, Final

from engine.errors import InvalidConfig
from handler.booting import Boot, take_over_process

if TYPE_CHECKING:
    from handler.frontend import Frontend
    from handler.jobs import Jobs

FAILURE_NOTICE_S: Final = 3.0
"""After a device error: how long failed jobs' answers get to reach RunPod before the process exits."""

_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Run the worker, or one of the SDK's local modes; gives the exit status."""
    take_over_process()
    boot = Boot()
    try:
        frontend = _make_frontend(boot)
    except InvalidConfig as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        return boot.end(1)
    runpod = _import_sdk()
    from handler.jobs import Jobs
    from handler.local_test import is_local_test, run_local_test

    jobs = Jobs(frontend)
    boot.failure.add_done_callback(lambda _: Timer(FAILURE_NOTICE_S, _exit_failed).start())
    if is_local_test(sys.argv, os.environ):
        return boot.end(run_local_test(jobs, sys.argv))
    _start(runpod, boot, jobs, frontend.settings.max_concurrency)
    return boot.end(0)


def _import_sdk() -> ModuleType:
    """The SDK, without the second that `cpuinfo` takes at its import and without job inputs in its log."""
    stub = ModuleType("cpuinfo")
    stub.get_cpu_info = lambda: {"brand_raw": "unknown"}  # type: ignore[attr-defined]
    sys.modules.setdefault("cpuinfo", stub)
    os.environ.setdefault("RUNPOD_LOG_LEVEL", os.environ.get("RUNPOD_DEBUG_LEVEL", "INFO"))
    return importlib.import_module("runpod")


def _make_frontend(boot: Boot) -> Frontend:
    from handler import logs
    from handler.frontend import Frontend
    from handler.settings import read_settings

    logs.configure()
    settings = read_settings()
    boot.begin(settings.engine_config())
    return Frontend(boot, settings)


def _start(runpod: ModuleType, boot: Boot, jobs: Jobs, concurrency: int) -> None:
    os.register_at_fork(after_in_child=_die_with_parent)

    def model_boots() -> None:
        """A check before the first job is taken, so that none waits here for a boot that may fail."""
        boot.join()

    runpod.serverless.register_fitness_check(model_boots)
    runpod.serverless.start({
        "handler": jobs.handle,
        # Constant: the SDK drains the worker before it changes.
        "concurrency_modifier": lambda current: concurrency,
        "return_aggregate_stream": True,
    })


def _die_with_parent() -> None:
    """The SDK's heartbeat is a forked child, which otherwise goes on saying that a killed worker is alive."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_failed() -> None:
    """End a worker whose device is lost, heartbeat and all, so that the platform replaces it."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)
