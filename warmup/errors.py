"""What can go wrong in the warmer: one typed exception a cause, each message one readable line."""


class WarmerError(Exception):
    """Base of every error of the warmer that a user should read. The message is one line that names the cause."""


class InvalidPolicy(WarmerError):
    """A text that names no policy, or one with the wrong arguments."""


class InvalidTrace(WarmerError):
    """Arrivals that cannot be read, or are none."""


class InvalidSetting(WarmerError):
    """A price, a time or a count that is out of range."""
