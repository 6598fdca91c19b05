"""How much of a file is in the page cache, and what kind of storage the rest is on."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_SAMPLE_BYTES = 1 << 20
"""A sample every so many bytes at most: readahead brings files in by the same order of size."""

_MOST_SAMPLES = 256

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "lustre", "glusterfs", "fuse.glusterfs", "beegfs"}


def resident_fraction(file: Path) -> float | None:
    """The share of a file that a read would find in memory, by samples; 1 of nothing, None where it cannot be told.

    Asks with `preadv2(RWF_NOWAIT)`, which reads what is there and never waits for storage. `mincore` would not do: it
    tells a user who does not own the file that all of it is resident (`can_do_mincore` in Linux' mm/mincore.c). Asking
    for a page that is not there has it read, so samples are few, of one page, and never twice at the same place.
    """
    with file.open("rb", buffering=0) as opened:
        number = opened.fileno()
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_RANDOM)
        offsets = _samples(os.fstat(number).st_size)
        try:
            found = sum(_is_resident(number, offset) for offset in offsets)
        except OSError:  # The file system does not know the flag.
            return None
    return found / len(offsets) if offsets else 1.0


def _samples(size: int) -> list[int]:
    """One place, at random, in each of the parts that a file is cut into."""
    step = max(_SAMPLE_BYTES, size // _MOST_SAMPLES)
    return [at + int.from_bytes(os.urandom(6), "little") % min(step, size - at) for at in range(0, size, step)]


def _is_resident(number: int, offset: int) -> bool:
    try:
        return os.preadv(number, [bytearray(1)], offset, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False


def medium(file: Path) -> str:
    """The storage a file is on: `network`, `overlay` (a container's image) or `local`."""
    kind = _file_system(file.stat().st_dev)
    if kind in _NETWORK or kind.startswith("fuse"):
        return "network"
    return "overlay" if kind == "overlay" else "local"


@cache
def _file_system(device: int) -> str:
    """The type of a mounted file system, by its device number; empty where it is not listed."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
