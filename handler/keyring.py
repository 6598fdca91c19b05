"""Which caller a shown key makes known, from a setting and from a file that may change at any time."""

from __future__ import annotations

import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from engine.errors import InvalidConfig
from handler.api_keys import ApiKey, check_distinct, digest_of, keys_of_setting

LOOK_S: Final = 1.0
"""The file is looked at when a key is asked for, at most this often: a key that was taken out is out a second later."""

_log = logging.getLogger("pilotlight.keys")


class Keyring:
    """All keys that may call. A file that cannot be used leaves those it held before.

    It is read whole at each look, some microseconds for as many keys as a person writes, since its times and size need
    not change with what is in it.

    Args:
        setting: keys that never change.
        file: more keys, or None.

    Raises:
        InvalidConfig: the file cannot be used now, at the start.
    """

    def __init__(
        self, setting: Sequence[str], file: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._clock = clock
        self._setting = keys_of_setting(setting)
        self._looked = clock()
        self._content: bytes | None = None
        self._trouble: str | None = None
        self._keys = self._setting
        if file is not None:
            self._read_anew(file)

    @property
    def needed(self) -> bool:
        """Whether a caller must show a key at all."""
        return bool(self._keys)

    @property
    def trouble(self) -> str | None:
        """Why the file's newest content is not in use; None while it is."""
        self._look()
        return self._trouble

    def find(self, shown: str) -> ApiKey | None:
        """The key that was shown; None when it is none of ours."""
        self._look()
        digest = digest_of(shown)
        # Every key is compared, each in constant time, so that the time taken tells nothing about any.
        matches = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return matches[0] if matches else None

    def _look(self) -> None:
        now = self._clock()
        if self._file is None or now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            if self._read_anew(self._file):
                _log.info("the API keys were read anew: %d may call", len(self._keys))
        except InvalidConfig as error:
            self._complain(str(error))

    def _read_anew(self, file: Path) -> bool:
        """Whether there was anything new; raises InvalidConfig, naming the file and its fault."""
        try:
            content = _read(file)
            if content == self._content and self._trouble is None:
                return False
            self._keys = self._all(content)
        except InvalidConfig as error:
            raise InvalidConfig(f"api_keys_file: {file}: {error}") from None
        except OSError as error:
            raise InvalidConfig(f"api_keys_file: {file}: {error.strerror}") from None
        self._content, self._trouble = content, None
        return True

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.error("%s; the keys from before stay in use", trouble)
        self._trouble = trouble

    def _all(self, content: bytes) -> tuple[ApiKey, ...]:
        from handler.key_file import parse_keys  # Here, because most starts have no file to read.

        keys = (*self._setting, *parse_keys(content))
        check_distinct(keys)
        return keys


def _read(file: Path) -> bytes:
    with open(file, "rb", opener=_at_once) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise InvalidConfig("not a regular file")
        return opened.read()


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe that nobody writes to would hold up every request."""
    return os.open(path, flags | os.O_NONBLOCK)
