"""A file that takes another one's place whole, or not at all."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

_OPEN_FILES: Final = ("/dev/std", "/dev/fd/", "/proc/self/fd/")
"""Linux's names of files that the process has open already, and with it perhaps others."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write in place of `path`, which it becomes when all has gone well; who may read that, may this.

    It is made at once, so that a place that cannot be written is known before the work. Whoever has nothing to write
    removes it; then nothing is replaced.

    Raises:
        OSError: the place cannot be written; it is what the error names.
    """
    path = path.resolve()
    draft = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        draft.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        if path.exists():
            draft.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IWUSR)
        yield draft
        if draft.exists():
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing_text(path: Path) -> Iterator[TextIO]:
    """The same as an open text file, with line ends as they are written. What is no file, such as a device, and what
    others write to as well, such as standard output, is written as it is.

    Raises:
        OSError: it cannot be written.
    """
    if str(path.absolute()).startswith(_OPEN_FILES) or (path.exists() and not path.is_file()):
        with path.open("a", newline="", encoding="utf-8") as device:
            yield device
        return
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        yield file
