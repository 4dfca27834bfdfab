"""The errors that a caller of ours catches and answers; anything else is a defect and ends the process or the request.

Each carries the sentence that its reader is shown.
"""


class NotFound(LookupError):
    """There is no such thing: `what` is the entity's name, `key` the id that was asked for."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"{what} not found: {key}")


class Conflict(ValueError):
    """It exists already, or is in a state that doesn't allow this."""


class Invalid(ValueError):
    """A value that the caller sent can't be taken; the message names the field and what it takes."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.field = field


class Unauthenticated(PermissionError):
    """No token, or none that we know."""


class Forbidden(PermissionError):
    """Known, but without the permission that this takes."""


class TooMany(Exception):
    """Over a rate limit; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Busy(Exception):
    """The queue is full; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreFailed(Exception):
    """The store can't be written or read now: disk full, locked, gone. Nothing was changed."""


class CannotStart(RuntimeError):
    """The program can't start; the sentence tells the operator what to change. Ends it with one line and status 1."""
