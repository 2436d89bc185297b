"""How an endpoint says more about its request for the audit log. What is recorded at all: `pilothouse.audit.http`."""

from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

_KEY = "audit"


def add_to_audit(connection: HTTPConnection, *, object_id: str | None = None, **detail: Any) -> None:
    """Facts for the record of this request: no secrets and no content of messages.

    Args:
        connection: the request.
        object_id: which thing, where the path does not name it.
        detail: further facts, small.
    """
    found = connection.scope.setdefault("state", {}).setdefault(_KEY, {"detail": {}})
    found["detail"].update(detail)
    if object_id is not None:
        found["object_id"] = object_id


def added_to_audit(scope: Scope) -> tuple[str | None, dict[str, Any]]:
    """The object's id and the details that were added, if any."""
    found = scope.get("state", {}).get(_KEY, {})
    return found.get("object_id"), found.get("detail", {})
