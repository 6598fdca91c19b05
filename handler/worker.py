"""RunPod's queue worker: our engine behind RunPod's own loop (`runpod.serverless.start`), or behind ours."""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from threading import Thread, Timer
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InvalidConfig
from handler.booting import LAST_WORDS_S, Boot, exit_on_signals, take_over_process
from handler.mode import choose_mode

if TYPE_CHECKING:
    from handler.billing.recorder import Recorder
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
    boot.failure.add_done_callback(lambda _: Timer(FAILURE_NOTICE_S, _exit_failed, (frontend.recorder,)).start())
    status = _work(frontend)
    frontend.recorder.close(LAST_WORDS_S)
    return boot.end(status)


def _work(frontend: Frontend) -> int:
    """Run what is asked for to its end, and give the exit status."""
    mode = choose_mode(sys.argv[1:], os.environ, has_test_input=True)
    runpod = None if mode == "queue" and frontend.settings.job_loop == "native" else _import_sdk()
    from handler.jobs import Jobs
    from handler.local_test import is_local_test, run_local_test

    jobs = Jobs(frontend)
    if is_local_test(sys.argv, os.environ):
        return run_local_test(jobs, sys.argv)
    return _work_natively(frontend, jobs) if runpod is None else _start(runpod, frontend, jobs)


def _work_natively(frontend: Frontend, jobs: Jobs) -> int:
    """Run our own loop to its end; the SDK is not even imported."""
    from handler.native.loop import work

    try:
        return asyncio.run(work(frontend, jobs))
    except InvalidConfig as error:
        print(f"pilotlight: {error}", file=sys.stderr)
        return 1


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
    frontend = Frontend(boot, settings)
    exit_on_signals(lambda: frontend.recorder.close(LAST_WORDS_S))
    return frontend


def _start(runpod: ModuleType, frontend: Frontend, jobs: Jobs) -> int:
    """Run the SDK's loop to its end, and give the exit status."""
    os.register_at_fork(after_in_child=_die_with_parent)

    def model_boots() -> None:
        """A check before the first job is taken, so that none waits here for a boot that may fail."""
        try:
            frontend.boot.join()
        except BaseException:  # The SDK ends the process at once.
            frontend.recorder.close(LAST_WORDS_S)
            raise

    runpod.serverless.register_fitness_check(model_boots)
    runpod.serverless.start({
        "handler": jobs.handle,
        "concurrency_modifier": _Concurrency(frontend),
        "return_aggregate_stream": True,
    })
    return 0


class _Concurrency:
    """Tells the SDK how many jobs to take at once: always the same, because it drains the worker before it changes.

    Its loop asks again and again, and that is where the signals' handlers, which it set before, can be added to.
    """

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._asked = False

    def __call__(self, current: int) -> int:
        if not self._asked:
            self._asked = True
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, self._draining(signal.getsignal(signum)))
        return self._frontend.settings.max_concurrency

    def _draining(self, handle: Any) -> Callable[[int, FrameType | None], None]:
        def drain(signum: int, frame: FrameType | None) -> None:
            # On a thread of its own: what the signal interrupted may hold the locks it needs.
            Thread(target=self._frontend.recorder.drain, daemon=True).start()
            if callable(handle):
                handle(signum, frame)

        return drain


def _die_with_parent() -> None:
    """The SDK's heartbeat is a forked child, which otherwise goes on saying that a killed worker is alive.

    Told to end, it must not close its parent's books.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_failed(recorder: Recorder) -> None:
    """End a worker whose device is lost, heartbeat and all, so that the platform replaces it."""
    recorder.close(LAST_WORDS_S)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)
