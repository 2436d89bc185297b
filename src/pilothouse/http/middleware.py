"""What happens to every request on its way in and out. Pure ASGI: nothing here buffers, copies or starts a task.

Wrappers of `send` are plain functions that return the next one's awaitable, so a streamed chunk passes them
without a coroutine each.
"""

import re
import time
from collections.abc import Awaitable

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from pilothouse.http.access import added_to_request_line
from pilothouse.http.bodies import BodyLimitMiddleware, TextMiddleware
from pilothouse.http.boundary import ProblemMiddleware
from pilothouse.http.hosts import HostMiddleware
from pilothouse.http.paths import path_of
from pilothouse.kit.ids import new_id
from pilothouse.observability.logs import get_logger
from pilothouse.settings import Settings

PAGE_CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy of pages: nothing inline, nothing from another host."""

API_CSP = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of everything that is no page."""

HSTS_SECONDS = 31_536_000

_EXPOSED = ("X-Request-ID", "Retry-After", "X-Run-ID", "X-Conversation-ID", "Content-Disposition")
"""Headers that pages of other origins may read."""

_SENSIBLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_QUIET = ("/health/", "/metrics")
_CLIENT_LEFT = 499  # nginx's number for a client that went before the answer began
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """Install all middleware. The first of this list sees a request first and its answer last:

    request id, access log, security headers, CORS (where origins are configured), problem documents, check of Host,
    body limit, text check.
    """
    app.add_middleware(TextMiddleware)
    app.add_middleware(BodyLimitMiddleware, limit=settings.server.max_body_bytes)
    app.add_middleware(HostMiddleware)
    app.add_middleware(ProblemMiddleware)
    if settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.server.cors_origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-ID"),
            expose_headers=_EXPOSED,
        )
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(AccessLogMiddleware)
    app.add_middleware(RequestIdMiddleware)


class RequestIdMiddleware:
    """Give every request an id: the caller's `X-Request-ID` where it is sensible, else a new one.

    It is returned in `X-Request-ID`, kept in `scope["state"]["request_id"]` and stands on every log line. What was
    bound to the log context before is dropped: nothing of one request shows on the lines of another.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        header = (b"x-request-id", request_id.encode())

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] in _STARTS:
                message["headers"] = [*message.get("headers", ()), header]
            return send(message)

        await self._app(scope, receive, send_with_id)


class AccessLogMiddleware:
    """Write one line per request when it ends: `method path status duration_ms`, `code` of an error, and what
    `add_to_request_line` added: `subject` and `by`, the caller's credential.

    `disconnected` is true where the client left before the end of the answer. Health checks are logged at debug,
    answers from 500 up as warnings. The query is left out: it may hold tokens.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = get_logger("pilothouse.access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None
        complete = failed = False

        def watch(message: Message) -> Awaitable[None]:
            nonlocal status, complete
            event = message["type"]
            if event in {"http.response.body", "websocket.http.response.body"}:
                complete = not message.get("more_body", False)
            elif event == "websocket.close":
                status, complete = status or 403, True
            elif event in _STARTS:
                status = message.get("status", 101)
            return send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            failed = True
            raise
        finally:
            if status is None:
                status = 500 if failed else _CLIENT_LEFT
            left = kind == "http" and not complete and not failed
            self._write(scope, status, began, left=left, failed=failed)

    def _write(self, scope: Scope, status: int, began: float, *, left: bool, failed: bool) -> None:
        path: str = scope["path"]
        line: dict[str, object] = {
            "method": scope.get("method", "WEBSOCKET"),
            "path": path[:256],
            "status": status,
            "duration_ms": round((time.perf_counter() - began) * 1000, 2),
            **added_to_request_line(scope),
        }
        code = scope["state"].get("error_code") if "state" in scope else None
        if code is not None:
            line["code"] = code
        if left:
            line["disconnected"] = True
        if failed:
            line["failed"] = True
        if status >= 500 or failed:
            self._log.warning("request", **line)
        elif path_of(scope).startswith(_QUIET):
            self._log.debug("request", **line)
        else:
            self._log.info("request", **line)


class SecurityHeadersMiddleware:
    """Add the headers that keep browsers strict. What the app set itself stays.

    HSTS only over https; `Cache-Control: no-store` on `/v1`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._common = [
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"x-frame-options", b"DENY"),
        ]
        self._hsts = (b"strict-transport-security", f"max-age={HSTS_SECONDS}".encode())
        self._no_store = (b"cache-control", b"no-store")
        self._page = (b"content-security-policy", PAGE_CSP.encode())
        self._other = (b"content-security-policy", API_CSP.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = self._with_ours(scope, list(message.get("headers", ())))
            return send(message)

        await self._app(scope, receive, send_with_headers)

    def _with_ours(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        present = dict(headers)
        ours = [
            *self._common,
            self._page if present.get(b"content-type", b"").startswith(b"text/html") else self._other,
        ]
        if path_of(scope).startswith("/v1"):
            ours.append(self._no_store)
        if scope.get("scheme") == "https":
            ours.append(self._hsts)
        headers.extend(header for header in ours if header[0] not in present)
        return headers


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode("ascii") if _SENSIBLE_ID.fullmatch(value) else None
    return None
