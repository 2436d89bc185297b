"""SQL of leases. Times are the database's own, so that no node's clock matters."""

from typing import Any

from sqlalchemy import BigInteger, Connection, delete, insert, literal_column, select, update
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import ScalarSelect, Select

from pilothouse.engine.tables import leases


def database_now(connection: Connection) -> ColumnElement[int]:
    """The database's clock, milliseconds since the Unix epoch, as an expression."""
    if connection.dialect.name == "postgresql":
        return literal_column("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)", BigInteger)
    return literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)", BigInteger)


def insert_lease(connection: Connection, owner: str, *, host: str, pid: int, lasting_ms: int) -> None:
    """Add a process, alive for `lasting_ms` unless renewed."""
    now = database_now(connection)
    connection.execute(
        insert(leases).values(owner=owner, host=host, pid=pid, started_at=now, expires_at=now + lasting_ms)
    )


def renew_lease(connection: Connection, owner: str, *, lasting_ms: int) -> bool | None:
    """Keep a process alive for another while.

    Returns:
        Whether it was alive until now by the database's clock; None if its row is gone.
    """
    now = database_now(connection)
    was_alive = connection.execute(select(leases.c.expires_at > now).where(leases.c.owner == owner)).scalar()
    if was_alive is None:
        return None
    connection.execute(update(leases).where(leases.c.owner == owner).values(expires_at=now + lasting_ms))
    return bool(was_alive)


def delete_lease(connection: Connection, owner: str) -> None:
    """The process says goodbye."""
    connection.execute(delete(leases).where(leases.c.owner == owner))


def delete_expired(connection: Connection, *, for_ms: int) -> int:
    """Forget processes that have been dead for a while."""
    return connection.execute(delete(leases).where(leases.c.expires_at < database_now(connection) - for_ms)).rowcount


def alive(connection: Connection) -> Select[Any]:
    """The owners that are alive, as a query to be used inside another."""
    return select(leases.c.owner).where(leases.c.expires_at > database_now(connection))


def last_sign_of(owner: ColumnElement[str | None]) -> ScalarSelect[int]:
    """Until when a process surely was not dead, as a query to be used inside another; NULL if it is not known."""
    return select(leases.c.expires_at).where(leases.c.owner == owner).scalar_subquery()
