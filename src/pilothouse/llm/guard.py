"""The last look before a request leaves: whether whoever asks may still ask.

Between the agent loop's decision and the socket lie milliseconds of work, in which the process may be paused for longer
than its lease lasts.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

__all__ = ["Guard", "RequestStopped", "current_guard"]

Guard = Callable[[], Awaitable[None]]

current_guard: ContextVar[Guard | None] = ContextVar("pilothouse_request_guard", default=None)
"""Awaited by the transport right before it sends; raises `RequestStopped` where the request must not be sent."""


class RequestStopped(BaseException):
    """Carries the reason past the SDKs, which take every `Exception` for trouble with the network."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason
