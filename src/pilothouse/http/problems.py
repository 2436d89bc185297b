"""Errors as RFC 9457 problem documents: the one place where the error tree becomes HTTP."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketState

from pilothouse.errors import (
    CallerError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PilothouseError,
    RunFailure,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
)
from pilothouse.http.openapi import PROBLEM_JSON, TYPE_BASE, Problem, describe_problems, problem_responses
from pilothouse.kit import jsons
from pilothouse.kit.ids import new_id
from pilothouse.observability.logs import get_logger

__all__ = [
    "Problem",
    "encode_problem",
    "install_problem_handlers",
    "internal_error",
    "problem_document",
    "problem_response",
    "problem_responses",
    "remember_error",
    "request_id_of",
    "title_of",
    "websocket_close_code",
]

_TITLES = {
    413: "Content Too Large",
    414: "URI Too Long",
    422: "Unprocessable Content",
}  # http.HTTPStatus renamed them between versions
_SHOWN = 80
_MOST_ERRORS = 20
_LONGEST_MESSAGE = 400
_CAUSES_BY_STATUS: dict[int, type[PilothouseError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    422: InvalidRequest,
    429: TooMany,
    503: Unavailable,
}
_CODES = {405: "method_not_allowed", 406: "not_acceptable", 415: "unsupported_media_type"}
_UNREADABLE_BODY = "There was an error parsing the body"  # FastAPI's words, whatever went wrong


def problem_document(error: PilothouseError, request_id: str) -> dict[str, Any]:
    """The problem document of `error`, as docs/http.md shows it; its `extra` members come last."""
    document: dict[str, Any] = {
        "type": TYPE_BASE + error.code,
        "title": title_of(error.status),
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if isinstance(error, RunFailure):
        document["category"] = error.category
    return document | {name: value for name, value in error.extra.items() if name not in document}


def encode_problem(document: dict[str, Any]) -> bytes:
    """The document as JSON bytes. Never fails, whatever characters of the caller's it repeats."""
    try:
        return jsons.dumps(document).encode()
    except ValueError:  # a lone surrogate is no UTF-8; JSON's own escapes can still write it
        return json.dumps(document, default=str).encode()


def problem_response(error: PilothouseError, request_id: str) -> Response:
    """The response for `error`, with its headers (`Retry-After`, `WWW-Authenticate`, `Allow`)."""
    body = encode_problem(problem_document(error, request_id))
    return Response(body, status_code=error.status, headers=error.headers, media_type=PROBLEM_JSON)


def internal_error() -> PilothouseError:
    """What a caller is told about an error nobody foresaw."""
    return PilothouseError(
        "Something went wrong on our side. If it happens again, report it with this request_id.",
        code="internal_error",
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document, and describe that in its OpenAPI document."""
    log = get_logger("pilothouse.http")

    async def answer(connection: Request | WebSocket[Any], error: Exception) -> Response | None:
        mapped = as_pilothouse_error(error, connection.scope)
        if mapped is None:
            log.error("request_failed", exc_info=error)
            mapped = internal_error()
        elif mapped.status >= 500:
            log.warning("request_refused", code=mapped.code, cause=_cause_name(error))
        remember_error(connection.scope, mapped)
        if isinstance(connection, WebSocket):
            await _end_websocket(connection, mapped)
            return None
        if mapped.status in {204, 304}:
            return Response(status_code=mapped.status, headers=mapped.headers)
        return problem_response(mapped, request_id_of(connection.scope))

    for kind in (
        PilothouseError,
        RequestValidationError,
        WebSocketRequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)  # pyright: ignore[reportArgumentType] - returns None for WebSockets
    describe_problems(app)


def as_pilothouse_error(error: Exception, scope: Scope) -> PilothouseError | None:
    """`error` as one of ours, or None for an error nobody foresaw."""
    if isinstance(error, PilothouseError):
        return error
    if isinstance(error, RequestValidationError | WebSocketRequestValidationError):
        return invalid_request(error.errors())
    if isinstance(error, HTTPException):
        return _from_http_exception(error, scope)
    return None


def request_id_of(scope: Scope) -> str:
    """The id this request goes by; made now where no middleware gave it one."""
    state: dict[str, Any] = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = new_id("req")
    return state["request_id"]


def remember_error(scope: Scope, error: PilothouseError) -> None:
    """Leave code and status where the access log and the audit log find them."""
    state: dict[str, Any] = scope.setdefault("state", {})
    state["error_code"], state["error_status"] = error.code, error.status


def websocket_close_code(error: PilothouseError) -> int:
    """The close code of RFC 6455 that says the same: 1013 try later, 1008 refused, 1011 our fault."""
    if error.retryable:
        return 1013
    return 1008 if isinstance(error, CallerError) else 1011


def title_of(status: int) -> str:
    """The reason phrase of a status."""
    if status in _TITLES:
        return _TITLES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> PilothouseError:
    """One sentence about the first wrong field, and `errors` with (the first twenty of) all of them."""
    first = errors[0]
    if first.get("type") == "json_invalid":
        return _invalid_json(first)
    items = [{"field": _field(item), "message": _message(item)} for item in errors[:_MOST_ERRORS]]
    more = f" ({len(errors) - 1} more in errors.)" if len(errors) > 1 else ""
    return InvalidRequest(_sentence(first) + more, errors=items)


def _invalid_json(item: Mapping[str, Any]) -> PilothouseError:
    reason = str(item.get("ctx", {}).get("error") or "it can't be parsed")
    location = item.get("loc", ())
    where = f" at character {location[1]}" if len(location) > 1 and isinstance(location[1], int) else ""
    return InvalidRequest(f"The body is not valid JSON: {reason}{where}.", code="invalid_json", status=400)


def _sentence(item: Mapping[str, Any]) -> str:
    location, kind = tuple(item.get("loc", ())), item.get("type")
    if location == ("body",):
        if kind == "missing":
            return "The body is missing: send a JSON object with Content-Type: application/json."
        if isinstance(item.get("input"), bytes | bytearray):
            return "The body must be JSON, sent with Content-Type: application/json."
    field = _field(item)
    if kind == "missing":
        return f"{field} is missing."
    if kind == "extra_forbidden":
        return f"{field} is not a known field."
    message = _message(item)
    return f"{field} is wrong: {message[:1].lower()}{message[1:]}."


def _field(item: Mapping[str, Any]) -> str:
    location = [str(part) for part in item.get("loc", ())]
    parts = location[1:] or location or ["request"]
    return _short(".".join(_short(part) for part in parts), most=200)


def _message(item: Mapping[str, Any]) -> str:
    """Pydantic's message, without long values it may have repeated."""
    message = str(item.get("msg") or "invalid").removeprefix("Value error, ").rstrip(".")
    given = [item.get("input"), *item.get("ctx", {}).values()]
    for value in given:
        if isinstance(value, bytes | bytearray):
            message = message.replace(repr(value)[2:-1], "(bytes)") if value else message
        elif isinstance(value, str) and len(value) > _SHOWN:
            message = message.replace(value, _short(value)).replace(repr(value)[1:-1], _short(value))
    return _short(message, most=_LONGEST_MESSAGE)


def _short(text: str, *, most: int = _SHOWN) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _from_http_exception(error: HTTPException, scope: Scope) -> PilothouseError:
    cause = error.__cause__
    if isinstance(cause, PilothouseError):  # FastAPI wraps what our receive() raises while it reads a body
        return cause
    status, headers = error.status_code, dict(error.headers or {})
    if status == 400 and error.detail == _UNREADABLE_BODY:
        return InvalidRequest(
            "The body can't be read as JSON: check its encoding (UTF-8) and nesting.",
            code="invalid_json" if isinstance(cause, ValueError | RecursionError) else "invalid_body",
            status=400,
        )
    kind = _CAUSES_BY_STATUS.get(status, CallerError if status < 500 else PilothouseError)
    code = _CODES.get(status) or ("unavailable" if status in {502, 504} else kind.code)
    return kind(_http_detail(error, scope), code=code, status=status, headers=headers)


def _http_detail(error: HTTPException, scope: Scope) -> str:
    method, path = scope.get("method", "GET"), _short(str(scope.get("path", "")))
    standard = error.detail in {title_of(error.status_code), ""}
    if error.status_code == 404 and standard:
        slash = " Try it without the slash at its end." if len(path) > 1 and path.endswith("/") else ""
        return f"There is nothing at {path}.{slash} See /docs for the routes."
    if error.status_code == 405 and standard:
        if method == "OPTIONS" and _is_preflight(scope):
            return (
                "Pages of other origins may not call this server. "
                "Name theirs in PILOTHOUSE_SERVER_CORS_ORIGINS if they should."
            )
        allowed = (error.headers or {}).get("Allow")
        return f"{method} is not possible at {path}." + (f" Use {allowed}." if allowed else "")
    detail: Any = error.detail
    return detail if isinstance(detail, str) and detail else title_of(error.status_code)


def _is_preflight(scope: Scope) -> bool:
    names = {name for name, _ in scope.get("headers", ())}
    return {b"origin", b"access-control-request-method"} <= names


def _cause_name(error: Exception) -> str | None:
    return None if error.__cause__ is None else type(error.__cause__).__name__


async def _end_websocket(websocket: WebSocket[Any], error: PilothouseError) -> None:
    request_id = request_id_of(websocket.scope)
    if websocket.application_state == WebSocketState.CONNECTING:
        if "websocket.http.response" in websocket.scope.get("extensions", {}):
            await websocket.send_denial_response(problem_response(error, request_id))
        else:
            await websocket.close(websocket_close_code(error), error.code)
    elif websocket.application_state == WebSocketState.CONNECTED:
        frame = {"type": "error", "error": problem_document(error, request_id)}
        await websocket.send_text(encode_problem(frame).decode())
        await websocket.close(websocket_close_code(error), error.code)
