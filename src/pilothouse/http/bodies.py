"""What a request may bring: how many bytes, and text that every database and every JSON writer can hold."""

import asyncio
import re
from email.message import Message as MimeMessage
from typing import Any, cast

from pydantic_core import from_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.errors import InvalidRequest, TooLarge
from pilothouse.http.problems import encode_problem, problem_document, remember_error, request_id_of

MOST_VALUES = 10_000
"""Most values of a JSON body or frame. Each may be wrong, and every error takes some 4 us of the event loop's time."""

_LINGER_SECONDS = 1.0
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NO_NUMBER = re.compile(rb"NaN|Infinity")  # Python's parser takes them, JSON does not know them
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})


class BodyLimitMiddleware:
    """Refuse request bodies over `limit` bytes with 413, declared or not, and stop reading them.

    After the refusal at most another `limit` bytes are read for at most a second and thrown away, because a client
    that is still writing when its connection closes may never see the answer.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = _header(scope, b"content-length")
        if declared is not None and declared.isdigit() and (len(declared) > 18 or int(declared) > self._limit):
            await self._refuse(scope, receive, send)
            return
        guard = _Guard(self._limit, receive, send)
        try:
            await self._app(scope, guard.receive, guard.send)
        except Exception:
            if not guard.refused:
                raise
        if guard.refused:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLarge(f"The body is larger than the {self._limit} bytes allowed.", limit_bytes=self._limit)
        remember_error(scope, error)
        body = encode_problem(problem_document(error, request_id_of(scope)))
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _linger(receive, self._limit)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class TextMiddleware:
    """Refuse NUL characters and lone surrogates in paths, queries and JSON bodies, and bodies of too many values.

    PostgreSQL stores no NUL and UTF-8 writes no lone surrogate, so they would fail much later, as a server's error.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind in {"http", "websocket"}:
            if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
                raise InvalidRequest(
                    "The address holds a NUL character (%00); leave it out.", code="invalid_characters", status=400
                )
            if kind == "http" and scope["method"] not in _BODILESS and _may_be_json(scope):
                receive = _TextCheck(receive).receive
        await self._app(scope, receive, send)


def read_json(text: str | bytes) -> Any:
    """The value of JSON text from outside, for places FastAPI doesn't parse, such as WebSocket frames.

    Raises:
        InvalidRequest: it is no JSON (`invalid_json`), holds too many values (`too_many_values`), or a string holds NUL
            or a lone surrogate.
    """
    try:
        body = text.encode() if isinstance(text, str) else text
        _check_text(body)
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"This is not valid JSON: {error}.", code="invalid_json", status=400) from None


def _may_be_json(scope: Scope) -> bool:
    """Whether FastAPI may parse the body as JSON: by its own rule, with the parser it uses, or without any type."""
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return not all(types) or not types or any(_is_json(value.decode("latin-1")) for value in types)


def _is_json(content_type: str) -> bool:
    if content_type == "application/json":
        return True
    message = MimeMessage()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


class _Guard:
    """Counts what a request brings; once it is too much, nothing more is read and no answer but ours goes out."""

    __slots__ = ("_limit", "_receive", "_send", "_size", "_started", "refused")

    def __init__(self, limit: int, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._size = 0
        self._started = False
        self.refused = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._limit:
                self.refused = not self._started
                raise TooLarge(f"The body is larger than the {self._limit} bytes allowed.")
        return message

    async def send(self, message: Message) -> None:
        if self.refused:
            return
        self._started = True
        await self._send(message)


class _TextCheck:
    """Looks at a JSON body when its last part has come."""

    __slots__ = ("_parts", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._parts: list[bytes] | None = []

    async def receive(self) -> Message:
        message = await self._receive()
        if self._parts is not None and message["type"] == "http.request":
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                parts, self._parts = self._parts, None
                _check_text(parts[0] if len(parts) == 1 else b"".join(parts))
        return message


def _check_text(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid UTF-8 at byte {error.start}.", code="invalid_json", status=400
        ) from None
    if b"\x00" in body:  # none is in the UTF-8 of JSON; Python's parser would take UTF-16 and UTF-32 as well
        raise InvalidRequest("The body is not JSON in UTF-8: it holds NUL bytes.", code="invalid_json", status=400)
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidRequest(
            "A string holds a NUL character (\\u0000); leave it out.", code="invalid_characters", status=422
        )
    may_hold_many = sum(map(body.count, (b",", b"[", b"{"))) > MOST_VALUES
    if may_hold_many or _SURROGATE.search(body) or _NO_NUMBER.search(body):
        try:
            value = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json", status=400) from None
        if may_hold_many and _holds_more(value, MOST_VALUES):
            raise InvalidRequest(
                f"The body holds more than {MOST_VALUES} values in its objects and lists. Send less at once.",
                code="too_many_values",
            )


def _holds_more(value: Any, most: int) -> bool:
    """Whether JSON holds more values than `most`; walks no further than that takes."""
    found, pending = 0, [value]
    while pending and found <= most:
        item = pending.pop()
        if isinstance(item, dict | list):
            members = cast("dict[str, Any] | list[Any]", item)
            found += len(members)
            pending.extend(members.values() if isinstance(members, dict) else members)
    return found > most


async def _linger(receive: Receive, most: int) -> None:
    read = 0
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while read < most:
                message = await receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    for name, value in scope["headers"]:
        if name == wanted:
            return value
    return None
