"""Whether a file of the ledger can be unpacked at all."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

_AT_ONCE = 1 << 20


def is_whole(path: Path) -> bool:
    """Whether it is gzip to its end, or begins and ends as Parquet does."""
    try:
        with path.open("rb") as file:
            if path.suffix == ".parquet":
                return _is_parquet(file.read())
            with gzip.GzipFile(fileobj=file) as unpacked:
                whole = 0
                while piece := unpacked.read(_AT_ONCE):
                    whole += len(piece)
            return whole > 0
    except (OSError, EOFError, zlib.error):
        return False


def _is_parquet(content: bytes) -> bool:
    return len(content) > 8 and content.startswith(b"PAR1") and content.endswith(b"PAR1")
