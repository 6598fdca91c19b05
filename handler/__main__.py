"""The container's entry: `python -m handler` is RunPod's queue worker."""

import sys

from handler.worker import main

if __name__ == "__main__":
    sys.exit(main())
