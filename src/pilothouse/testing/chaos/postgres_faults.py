"""A PostgreSQL that is up and does not do what it is asked: read-only, cancelling, terminating, locked."""

import asyncio
from contextlib import suppress
from time import monotonic

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from pilothouse.testing.chaos.faults import PlannedFault

_NAME = "chaos"
_OURS = f"datname = current_database() AND backend_type = 'client backend' AND application_name <> '{_NAME}'"
_CANCEL = f"""
    SELECT pg_cancel_backend(pid) FROM pg_stat_activity
    WHERE {_OURS} AND state IN ('active', 'idle in transaction') AND random() < 0.7
"""  # noqa: S608 - constants
_TERMINATE = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS} AND random() < 0.7"  # noqa: S608
_CANCEL_PAUSE_SECONDS = 0.004
"""Statements are short: who is to meet one has to look often."""
_TERMINATE_PAUSE_SECONDS = 1.0

LOCKS = {
    "runs": "SELECT id FROM runs WHERE state IN ('queued', 'running', 'awaiting_input') FOR UPDATE",
    "leases": "SELECT owner FROM leases FOR UPDATE",
    "table": "LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE",
    "idle": "UPDATE runs SET attempt = attempt WHERE state = 'running'",
}
"""What a forgotten session holds, and how it got it."""


class PostgresFaults:
    """What an administrator, a failover or a forgotten session does to a server that goes on.

    Args:
        url: of a superuser, straight to the server.
    """

    kinds = frozenset({"read-only", "cancel", "terminate", "locks"})

    def __init__(self, url: str) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"server_settings": {"application_name": _NAME}},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def strike(self, planned: PlannedFault) -> None:
        """Do it, and undo it after `planned.down` seconds."""
        match planned.kind:
            case "read-only":
                await self._read_only(planned.down)
            case "cancel":
                await self._again_and_again(_CANCEL, planned.down, _CANCEL_PAUSE_SECONDS)
            case "terminate":
                await self._again_and_again(_TERMINATE, planned.down, _TERMINATE_PAUSE_SECONDS)
            case _:
                await self._hold(LOCKS[planned.detail], planned.down)

    async def _read_only(self, seconds: float) -> None:
        """For sessions that are open, too: they read the setting before their next statement."""
        await self._do("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(seconds)
        finally:
            await self._do("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")

    async def _again_and_again(self, statement: str, seconds: float, pause: float) -> None:
        give_up = monotonic() + seconds
        async with self._engine.connect() as connection:
            while monotonic() < give_up:
                await connection.execute(text(statement))
                await asyncio.sleep(pause)

    async def _hold(self, statement: str, seconds: float) -> None:
        """The session waits for the locks like anybody else, and holds them while it is idle in its transaction."""
        async with self._engine.connect() as connection:
            await connection.execute(text("BEGIN"))
            await connection.execute(text("SET LOCAL lock_timeout = '10s'"))
            with suppress(DBAPIError):  # others held them for so long, or it was a victim itself
                await connection.execute(text(statement))
                await asyncio.sleep(seconds)
            await connection.execute(text("ROLLBACK"))

    async def _do(self, *statements: str) -> None:
        async with self._engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
