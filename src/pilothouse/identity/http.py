"""Identity at the HTTP edge: `principal: CurrentPrincipal`, or `principal: Annotated[Principal, Scoped("chat")]`."""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Annotated, Any, cast

import structlog
from fastapi import Depends, Security
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from pilothouse.http.access import add_to_request_line
from pilothouse.identity.connections import Connection, Connections
from pilothouse.identity.local_mode import require_local
from pilothouse.identity.principal import Principal
from pilothouse.identity.service import Identity

SUBPROTOCOL = "pilothouse"
_TOKEN_SUBPROTOCOL = "bearer."  # noqa: S105 - a prefix


class _Bearer(SecurityBase):
    """Names the scheme in the OpenAPI document, and hands over the header as it came."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(description="An API key (`ph_…`) or a JWT.")
        self.scheme_name = "bearer"

    async def __call__(self, connection: HTTPConnection) -> str | None:
        return connection.headers.get("authorization")


_bearer = _Bearer()


async def current_principal(
    connection: HTTPConnection, scopes: SecurityScopes, authorization: Annotated[str | None, Depends(_bearer)]
) -> Principal:
    """Dependency: the caller, who holds all `scopes`. Use it through `CurrentPrincipal` and `Scoped`.

    Raises:
        Unauthenticated: nobody we know.
        Forbidden: a scope is missing.
    """
    principal = await _authenticate(connection, authorization)
    for scope in scopes.scopes:
        principal.require(scope)
    return principal


CurrentPrincipal = Annotated[Principal, Depends(current_principal)]
"""The caller of this request."""


def Scoped(*scopes: str) -> Any:  # noqa: N802 - reads as FastAPI's own Depends and Security
    """The caller of this request, who must hold all `scopes`. It goes into an `Annotated[Principal, ...]`."""
    return Security(current_principal, scopes=scopes)


async def _opener(connection: HTTPConnection) -> AsyncIterator[Callable[[Principal], Connection]]:
    connections = cast("Connections", connection.app.state.connections)
    with ExitStack() as opened:  # left when the answer has been sent, or broke off
        yield lambda principal: opened.enter_context(connections.open(principal))


OpenConnection = Annotated[Callable[[Principal], Connection], Depends(_opener)]
"""Counts this request as one of its caller's open connections until its answer has ended: `open_connection(principal)`
raises `TooMany` where the caller has too many."""


async def authenticate_websocket(websocket: WebSocket) -> Principal:
    """The caller of a WebSocket, before it is accepted. The token is the Authorization header, or, since browsers
    can't set one, an offered subprotocol `bearer.<token>`.

    Raises:
        Unauthenticated: nobody we know.
    """
    return await _authenticate(websocket, authorization_of(websocket))


async def authenticate_again(websocket: WebSocket) -> Principal:
    """The caller of an open WebSocket, if its credential is still good. Cheap: keys are cached, JWTs only checked.

    Raises:
        Unauthenticated: it has been revoked or has expired.
        Unavailable: it can't be checked right now.
    """
    return await cast("Identity", websocket.app.state.identity).authenticate(authorization_of(websocket))


def authorization_of(connection: HTTPConnection) -> str | None:
    """What the caller gives as its credential, unverified: an `Authorization` header's value, or what a browser's
    WebSocket offers instead of one. None: nothing.
    """
    authorization = connection.headers.get("authorization")
    if authorization is None:
        tokens = [item for item in _offered(connection) if item.startswith(_TOKEN_SUBPROTOCOL)]
        authorization = f"Bearer {tokens[0].removeprefix(_TOKEN_SUBPROTOCOL)}" if tokens else None
    return authorization


def accepted_subprotocol(websocket: WebSocket) -> str | None:
    """What to accept a WebSocket with: our subprotocol where offered. Never the one with the token."""
    return SUBPROTOCOL if SUBPROTOCOL in _offered(websocket) else None


async def _authenticate(connection: HTTPConnection, authorization: str | None) -> Principal:
    identity = cast("Identity", connection.app.state.identity)
    principal = await identity.authenticate(authorization)
    if principal.kind == "local":
        require_local(connection.scope)
    connection.state.principal = principal
    structlog.contextvars.bind_contextvars(tenant=principal.tenant)
    add_to_request_line(connection, subject=principal.subject, by=principal.credential_id)
    return principal


def _offered(connection: HTTPConnection) -> list[str]:
    return cast("list[str]", connection.scope.get("subprotocols") or [])
