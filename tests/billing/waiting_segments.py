"""How much memory the uploader takes while 3,000 segments wait for a server that is down: MiB, segments, attempts."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from handler.billing import uploader
from handler.billing.bucket import BucketStore
from handler.billing.uploader import Uploader
from tests.billing.segments import fill
from tests.handler.processes import deaf_port


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Waiting:
    """A journal of which nobody confirms anything."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sealed(self) -> list[Path]:
        return sorted(self._folder.iterdir())

    def confirm(self, segment: Path) -> None:
        raise AssertionError("nothing can have been stored")


def main(root: Path, port: int) -> None:
    os.environ.update(
        AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{port}", AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret"
    )
    uploader.LONGEST_PAUSE_S = 0.05  # type: ignore[misc]
    content = b"".join(path.read_bytes() for path in fill(root).sealed())
    waiting = root / "waiting"
    waiting.mkdir()
    for number in range(3000):
        (waiting / f"{number:08}").write_bytes(content)
    bringing = Uploader(BucketStore("bucket"), Waiting(waiting))
    bringing.start()
    while bringing.status().attempts_failed < 5:
        time.sleep(0.05)
    before = resident_mib()
    while bringing.status().attempts_failed < 30:
        time.sleep(0.05)
    print(resident_mib() - before, bringing.status().waiting, bringing.status().attempts_failed - 5)


if __name__ == "__main__":
    with deaf_port() as nobody:
        main(Path(sys.argv[1]), nobody)
