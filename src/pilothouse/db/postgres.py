"""PostgreSQL over asyncpg: each unit runs in its own transaction on a pooled connection."""

import asyncio
from typing import ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pilothouse.db.database import Unit
from pilothouse.errors import StartupError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

_CONNECT_SECONDS = 5
_POOL_WAIT_SECONDS = 10
_AWAY = ("08", "53", "57P")
"""SQLSTATE classes: no connection, no resources (such as connections), stopping or not yet started."""


class PostgresDatabase:
    """The `Database` port on PostgreSQL."""

    dialect = "postgresql"

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @classmethod
    async def open(cls, url: URL, *, pool_size: int) -> Self:
        """Connect.

        Raises:
            StartupError: the `postgres` extra is missing, or the server can't be reached or refuses us.
        """
        try:
            engine = create_async_engine(
                url.set(drivername="postgresql+asyncpg"),
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=_POOL_WAIT_SECONDS,
                pool_recycle=1800,
                connect_args={"timeout": _CONNECT_SECONDS, "command_timeout": 60},
            )
        except ModuleNotFoundError as error:
            raise StartupError("PostgreSQL needs its driver: pip install 'pilothouse[postgres]'.") from error
        database = cls(engine)
        try:
            await database.read(_ping)
        except Exception as error:
            await engine.dispose()
            where = url.render_as_string(hide_password=True)
            raise StartupError(
                f"PostgreSQL at {where} can't be used ({type(error.__cause__ or error).__name__}). "
                "Check that it runs, the address in PILOTHOUSE_DATABASE_URL, the user and the password."
            ) from error
        return database

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with self._engine.connect() as connection:
                return await connection.run_sync(lambda sync: unit(sync, *args, **kwargs))
        except Exception as error:
            raise _translated(error) from error

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(lambda sync: unit(sync, *args, **kwargs))
        except Exception as error:
            raise _translated(error) from error

    async def close(self) -> None:
        await self._engine.dispose()


def _ping(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")


def _translated(error: Exception) -> Exception:
    """`Unavailable` for what means "the database is away", the error itself for everything else."""
    away = isinstance(error, OSError | InterfaceError | OperationalError | PoolTimeoutError | asyncio.TimeoutError) or (
        isinstance(error, DBAPIError)
        and (error.connection_invalidated or str(getattr(error.orig, "sqlstate", None)).startswith(_AWAY))
    )
    if away:
        return Unavailable("The database can't be reached right now. Try again shortly.", code="database_unavailable")
    return error
