"""A server or a worker whose device is lost when a request with seed 666 computes: `python faulty.py serve|work`."""

import sys

from engine.core import DeviceLost, Samples
from engine.runner import Runner
from engine.scheduler import Step

SEED = 666


def make_faulty() -> None:
    """Let the runner fail as it does when a device is gone; all that follows is the program's own."""
    compute = Runner.launch

    def launch(self: Runner, step: Step) -> Samples:
        if any(request.params.seed == SEED for request in step.tokens):
            raise DeviceLost("the device is gone")
        return compute(self, step)

    Runner.launch = launch  # type: ignore[method-assign]


if __name__ == "__main__":
    make_faulty()
    if sys.argv.pop(1) == "serve":
        from handler.server import serve

        sys.exit(serve(port=0))
    from handler.worker import main

    sys.exit(main())
