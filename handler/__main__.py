"""The container's entry: `python -m handler` is an HTTP server or one of RunPod's workers, as `handler.mode` says."""

import os
import sys

from handler.mode import HELP, HTTP_PORT, TEST_INPUT, choose_mode, meaningless


def main() -> int:
    """Run what is asked for, and give the exit status."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP, end="")
        return 0
    mode = choose_mode(sys.argv[1:], os.environ, os.path.exists(TEST_INPUT))  # noqa: PTH110 - pathlib takes 5 ms.
    if (argument := meaningless(sys.argv[1:], mode)) is not None:
        print(f"python -m handler: {argument} means nothing here; --help says what does", file=sys.stderr)
        return 2
    if mode in ("queue", "runpod's test"):
        from handler.worker import main as work

        return work()
    from handler.server import serve

    if mode == "server":
        return serve()
    host = os.environ.get("PILOTLIGHT_HOST") or "0.0.0.0"
    named = os.environ.get("PORT") or os.environ.get("PILOTLIGHT_PORT")
    return serve(host=host, port=None if named else HTTP_PORT)


if __name__ == "__main__":
    sys.exit(main())
