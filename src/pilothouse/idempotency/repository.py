"""SQL of idempotency keys. Every statement carries the tenant and the owner."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.sql.elements import ColumnElement

from pilothouse.errors import InvalidRequest
from pilothouse.idempotency.tables import idempotency_keys

_INSERT = insert(idempotency_keys)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A caller's use of a key: for which route, with which body."""

    tenant: str
    owner: str
    key: str
    route: str
    body_hash: str


def claim(connection: Connection, use: KeyUse, resource_id: str, now: int) -> Row[Any] | None:
    """Take a key for a resource that is about to be made.

    Returns:
        None where it was free; the row of its earlier use otherwise.

    Raises:
        InvalidRequest: it was used for something else.
        sqlalchemy.exc.IntegrityError: somebody took it in the same instant; look again in a new transaction.
    """
    known = find(connection, use)
    if known is None:
        values = {
            "tenant": use.tenant,
            "owner": use.owner,
            "key": use.key,
            "route": use.route,
            "body_hash": use.body_hash,
            "resource_id": resource_id,
            "created_at": now,
        }
        connection.execute(_INSERT, values)
        return None
    if known.route != use.route or known.body_hash != use.body_hash:
        raise reused()
    return known


def reused() -> InvalidRequest:
    """The error of a key that comes with another request than its first."""
    return InvalidRequest(
        "This Idempotency-Key was used with another request. Use a new key for a new request.",
        code="idempotency_key_reused",
    )


def find(connection: Connection, use: KeyUse) -> Row[Any] | None:
    """What the caller's key stands for."""
    return connection.execute(select(idempotency_keys).where(_same(use))).first()


def set_response(connection: Connection, use: KeyUse, response: str) -> None:
    """Keep the answer that repetitions get."""
    connection.execute(update(idempotency_keys).where(_same(use)).values(response=response))


def release(connection: Connection, use: KeyUse) -> None:
    """Give the key back: nothing was made."""
    connection.execute(delete(idempotency_keys).where(_same(use)))


def drop_old(connection: Connection, *, created_before: int) -> int:
    """Forget keys older than a time. Returns how many."""
    return connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < created_before)).rowcount


def _same(use: KeyUse) -> ColumnElement[bool]:
    return (
        (idempotency_keys.c.tenant == use.tenant)
        & (idempotency_keys.c.owner == use.owner)
        & (idempotency_keys.c.key == use.key)
    )
