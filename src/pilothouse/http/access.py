"""How a request says more about itself on its line of the log. Who writes the line: `AccessLogMiddleware`."""

from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

_KEY = "request_line"


def add_to_request_line(connection: HTTPConnection, **fields: str) -> None:
    """Fields for the log line of this request or WebSocket: short, and no secrets."""
    connection.scope.setdefault("state", {}).setdefault(_KEY, {}).update(fields)


def added_to_request_line(scope: Scope) -> dict[str, Any]:
    """The fields that were added, if any."""
    return scope.get("state", {}).get(_KEY, {})
