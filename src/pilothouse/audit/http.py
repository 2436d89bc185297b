"""What of HTTP and WebSocket goes into the audit log: one list of routes, and a middleware that records their outcome.

Every other route is recorded only if it is refused with 401 or 403; nothing is wrapped around its stream.
"""

import re
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

from starlette.requests import HTTPConnection
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.audit.record import MOST_DETAIL_CHARS, Action, AuditRecord, Outcome, bounded
from pilothouse.audit.service import Audit
from pilothouse.errors import Forbidden, PilothouseError, Unauthenticated
from pilothouse.http.auditing import added_to_audit
from pilothouse.http.paths import path_of
from pilothouse.http.problems import request_id_of
from pilothouse.identity.http import authorization_of
from pilothouse.identity.principal import MOST_CREDENTIAL_CHARS, Principal
from pilothouse.kit.jsons import dumps

AUDITED: Mapping[tuple[str, str], tuple[Action, str]] = MappingProxyType(
    {
        ("POST", "/v1/keys"): ("key.created", "key"),
        ("DELETE", "/v1/keys/{key_id}"): ("key.revoked", "key"),
        ("POST", "/v1/runs/{run_id}/input"): ("approval.decided", "run"),
        ("POST", "/v1/runs/{run_id}/cancel"): ("run.cancelled", "run"),
        ("POST", "/v1/runs/{run_id}/fork"): ("run.forked", "run"),
        ("POST", "/v1/runs/{run_id}/release"): ("run.released", "run"),
        ("POST", "/v1/tools/{name}"): ("tool.called", "tool"),
        ("DELETE", "/v1/conversations/{conversation_id}"): ("conversation.deleted", "conversation"),
    }
)
"""Routes whose every use is recorded: the action, and what kind of thing the path's parameter names."""

NOT_AUDITED: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("POST", "/v1/chat"): "the run it makes is the record",
        ("POST", "/v1/chat/stream"): "the run it makes is the record",
        ("POST", "/v1/conversations"): "changes nothing that is there",
        ("PATCH", "/v1/conversations/{conversation_id}"): "changes a title",
        ("PUT", "/v1/conversations/{conversation_id}/messages/{key}/pin"): "deletes nothing",
    }
)
"""Routes that change something and are recorded only if they are refused, with the reason. Routes that only read are
in neither list."""

_REFUSED = frozenset({401, 403})
_PUBLIC_START = re.compile(r"(?:bearer )?(ph_[0-9a-z]{8})_", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Act:
    action: Action
    object_kind: str | None
    object_id: str | None


def _compiled() -> dict[str, list[tuple[re.Pattern[str], Action, str]]]:
    found: dict[str, list[tuple[re.Pattern[str], Action, str]]] = {}
    for (method, path), (action, kind) in AUDITED.items():
        found.setdefault(method, []).append((compile_path(path)[0], action, kind))
    return found


_PATTERNS = _compiled()


class AuditMiddleware:
    """Record the outcome of audited routes before the caller is answered, and what is refused anywhere.

    It stands inside of the middleware that gives requests their ids and turns errors into answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        act = _act_of(scope) if scope["type"] == "http" else None
        if act is not None:
            await self._audited(act, scope, receive, send)
            return
        await self._app(scope, receive, send)
        state = scope.get("state", {})
        if state.get("error_status") in _REFUSED:
            record_refusal(scope, state["error_status"], state.get("error_code"))

    async def _audited(self, act: _Act, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start" and not answered:
                answered = True
                await _record(act, scope, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            audit = _audit_of(scope)
            if not answered and audit is not None:  # an unforeseen error, or the process is stopping
                audit.note(_new(audit, scope, act, outcome="failed", code="interrupted"))


def record_refusal(scope: Scope, status: int, code: str | None) -> None:
    """Count a request, or a frame of a WebSocket, that was refused with 401 or 403."""
    audit = _audit_of(scope)
    if audit is not None and status in _REFUSED:
        what = f"{scope.get('method', 'WEBSOCKET')} {scope['path']}"
        audit.count(_new(audit, scope, _Act("request.refused", "route", what), outcome="refused", code=code))


def record_refused_frame(connection: HTTPConnection, error: PilothouseError) -> None:
    """Count a frame of an open WebSocket if `error` refuses it for who sent it."""
    if isinstance(error, Unauthenticated | Forbidden):
        record_refusal(connection.scope, error.status, error.code)


@contextmanager
def recorded_failed_cancel(connection: HTTPConnection, run_id: str) -> Generator[None]:
    """Record that a frame of a WebSocket was to cancel a run, if that fails."""
    try:
        yield
    except BaseException as error:
        audit = _audit_of(connection.scope)
        if audit is not None:
            known = isinstance(error, PilothouseError)
            code = error.code if known else "interrupted"
            record = _new(audit, connection.scope, _cancel_of(run_id), outcome="failed", code=code)
            without_effect = known and error.status < 500
            (audit.count if without_effect else audit.note)(record)
        raise


@asynccontextmanager
async def recorded_cancel(connection: HTTPConnection, run_id: str) -> AsyncGenerator[None]:
    """Record that a frame of a WebSocket cancels a run: around the cancelling."""
    with recorded_failed_cancel(connection, run_id):
        yield
    audit = _audit_of(connection.scope)
    if audit is not None:
        await audit.record(_new(audit, connection.scope, _cancel_of(run_id), outcome="ok", code=None))


def _cancel_of(run_id: str) -> _Act:
    return _Act("run.cancelled", "run", run_id)


async def _record(act: _Act, scope: Scope, status: int) -> None:
    audit = _audit_of(scope)
    if audit is None:
        return
    code = scope["state"].get("error_code")
    if status < 400:
        await audit.record(_new(audit, scope, act, outcome="ok", code=None))
    elif status >= 500:  # it may have taken effect
        await audit.record(_new(audit, scope, act, outcome="failed", code=code))
    else:
        outcome: Outcome = "refused" if status in _REFUSED else "failed"
        audit.count(_new(audit, scope, act, outcome=outcome, code=code))


def _act_of(scope: Scope) -> _Act | None:
    path = path_of(scope)
    for pattern, action, kind in _PATTERNS.get(scope["method"], ()):
        match = pattern.match(path)
        if match is not None:
            return _Act(action, kind, next(iter(match.groupdict().values()), None))
    return None


def _new(audit: Audit, scope: Scope, act: _Act, *, outcome: Outcome, code: str | None) -> AuditRecord:
    state: dict[str, Any] = scope.get("state", {})
    principal = cast("Principal | None", state.get("principal"))
    object_id, detail = added_to_audit(scope)
    connection = HTTPConnection(scope)
    now = audit.now()
    return AuditRecord(
        at=now,
        last_at=now,
        tenant=None if principal is None else principal.tenant,
        subject=None if principal is None else principal.subject,
        credential=bounded(_credential(connection, principal), MOST_CREDENTIAL_CHARS),
        action=act.action,
        outcome=outcome,
        code=bounded(code, 64),
        object_kind=act.object_kind,
        object_id=bounded(object_id or act.object_id, 256),
        detail=_fitting(detail),
        request_id=bounded(request_id_of(scope), 128),
        client=bounded(connection.client.host if connection.client else None, 64),
        user_agent=bounded(connection.headers.get("user-agent"), 200),
    )


def _fitting(detail: dict[str, Any]) -> dict[str, Any] | None:
    if not detail:
        return None
    clean = {name: bounded(value, 256) if isinstance(value, str) else value for name, value in detail.items()}
    return clean if len(dumps(clean)) <= MOST_DETAIL_CHARS else {"left_out": "too long"}


def _credential(connection: HTTPConnection, principal: Principal | None) -> str | None:
    if principal is not None:
        return principal.credential_id
    match = _PUBLIC_START.match(authorization_of(connection) or "")
    return None if match is None else match[1]


def _audit_of(scope: Scope) -> Audit | None:
    """The audit log of a started application."""
    return getattr(scope["app"].state, "audit", None)
