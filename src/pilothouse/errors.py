"""The error tree.

    PilothouseError
    ├── CallerError          the request is at fault; sending it again unchanged will not help
    │   ├── InvalidRequest          400, 422
    │   ├── Unauthenticated         401
    │   ├── Forbidden               403
    │   ├── NotFound                404
    │   ├── Conflict                409  (busy conversation, key reused, wrong state)
    │   ├── TooLarge                413
    │   └── TooMany                 429
    ├── RunFailure           why a run ended in `failed`; its `category` says whose fault it was
    │   └── category: transient | model | tool | logic | fatal
    ├── Unavailable          503: stopping, database away; try again
    └── StartupError         the server can't start; one sentence, no trace

Every error has a stable `code`, a sentence a person can act on, and says whether trying again can help.
HTTP maps the tree once, in `pilothouse.http.problems`.
"""

from typing import Any, Literal

Category = Literal["transient", "model", "tool", "logic", "fatal"]


class PilothouseError(Exception):
    """Root of all errors Pilothouse raises on purpose.

    Args:
        message: a sentence a person can act on. Never provider text, keys or traces.
        code: stable, snake_case, for programs.
        extra: further JSON members of the problem document.
    """

    status: int = 500
    code: str = "internal_error"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.retryable = type(self).retryable if retryable is None else retryable
        self.headers = headers or {}
        self.extra = extra


class CallerError(PilothouseError):
    """The request is at fault."""

    status = 400
    code = "bad_request"


class InvalidRequest(CallerError):
    """The request's content is wrong; the message says which part and what is allowed."""

    status = 422
    code = "invalid_request"


class Unauthenticated(CallerError):
    """No credentials, or credentials that are wrong, expired or revoked."""

    status = 401
    code = "unauthenticated"


class Forbidden(CallerError):
    """Known, but without the scope this needs."""

    status = 403
    code = "forbidden"


class NotFound(CallerError):
    """There is no such thing, or it is someone else's: the two are not told apart."""

    status = 404
    code = "not_found"


class Conflict(CallerError):
    """The thing is in a state that doesn't allow this now."""

    status = 409
    code = "conflict"


class TooLarge(CallerError):
    """More bytes or items than allowed."""

    status = 413
    code = "too_large"


class TooMany(CallerError):
    """Too many at once; try again later."""

    status = 429
    code = "too_many"
    retryable = True


class Unavailable(PilothouseError):
    """The server can't do this right now."""

    status = 503
    code = "unavailable"
    retryable = True


class RunFailure(PilothouseError):
    """Why a run failed. Recorded on the run and shown to its caller."""

    status = 502
    code = "run_failed"

    def __init__(self, message: str, *, category: Category, code: str, **kwargs: Any) -> None:
        super().__init__(message, code=code, **kwargs)
        self.category: Category = category


class StartupError(PilothouseError):
    """The server can't start as configured; the message says what to change."""

    code = "startup_error"
