"""Requests to an application that nobody started."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.errors import Unavailable
from pilothouse.http.paths import path_of
from pilothouse.observability.logs import get_logger

NOT_STARTED = (
    "The application was not started: run it inside `async with app.running()` in the lifespan of the application that "
    "it is mounted in."
)

log = get_logger(__name__)


class StartedMiddleware:
    """Refuse with 503 what comes before the application was started or after it ended; the log says once what to do.

    `/health/` is answered: it says the same.
    """

    def __init__(self, app: ASGIApp, *, is_started: Callable[[], bool]) -> None:
        self._app = app
        self._is_started = is_started
        self._logged = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"} and not self._is_started() and not _is_health(scope):
            if not self._logged:
                self._logged = True
                log.error("application_not_started", meaning=NOT_STARTED)
            raise Unavailable("The server has not been started, or has ended.", code="not_started")
        await self._app(scope, receive, send)


def _is_health(scope: Scope) -> bool:
    return path_of(scope).startswith("/health/")
