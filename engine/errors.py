"""What can go wrong and whose fault it is: one typed exception a cause, each message one readable line."""


class PilotlightError(Exception):
    """Base of every error a user should read. The message is one line that names the cause."""


class InvalidRequest(PilotlightError):
    """A request that can never succeed as it stands.

    Args:
        message: one line that names the cause.
        param: the field at fault, under the name the user knows it by, or None.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextExceeded(InvalidRequest):
    """The prompt, or the prompt and the tokens asked for, cannot fit the context."""


class QueueFull(PilotlightError):
    """The waiting queue is at its bound; the same request may succeed later.

    Args:
        message: one line that names the bound.
        retry_after_s: whole seconds after which it is worth another try.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidConfig(PilotlightError):
    """A setting that is out of range or contradicts another."""


class ModelNotFound(PilotlightError):
    """MODEL names nothing that can be found."""


class InvalidModel(PilotlightError):
    """A model folder that cannot be served: unknown architecture, missing or corrupt files."""


class InsufficientMemory(PilotlightError):
    """Not even one request of one page fits the memory that is left."""


class EngineDead(PilotlightError):
    """The engine has stopped after a device error, or was shut down; it takes no more requests."""
