"""PostgreSQL over asyncpg: each unit runs in its own transaction on a pooled connection.

Invariants: a unit ends within `limit_seconds`, with its result or with an error, whatever the network does; and after
a connection has failed once, the next unit gets a fresh one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, QueuePool

from pilothouse.db.database import Unit
from pilothouse.db.postgres_options import split_options
from pilothouse.errors import StartupError, Unavailable
from pilothouse.kit.masking import mask_bounded
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LIMIT_SECONDS = 4.5
"""Longest time a unit may take, the wait for a connection included."""

_CONNECT_SECONDS = 3.0
_PATIENCE_SECONDS = 3600.0
_CUT_BEFORE = 0.05
"""Share of a unit's time that is left for the pool to be made anew."""
_CLOSING_STEP_SECONDS = 0.01
_PROBE_AFTER_SECONDS = 5.0
_PROBE_SECONDS = 1.0
_FIRST_WAIT_SECONDS = 0.02
_LONGEST_WAIT_SECONDS = 0.5
_MOST_REASON_CHARS = 500

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_AWAY = ("08", "53", "57P", "58")
"""Classes of SQLSTATE: no connection, no resources (such as disk), stopping or not yet started, failing I/O."""
_STALE_CLASS, _STALE_PLAN = "InvalidCachedStatementError", "stale plan"
"""SQLAlchemy's error for a prepared statement that a change of the schema made useless; it carries no SQLSTATE."""
_REPEATABLE = frozenset({"40001", "40P01", "55P03", "57014", _STALE_PLAN})
"""Rolled back by a server that is there: serialization, deadlock, lock timeout, cancelled statement."""
_REFUSED = frozenset({"25006", "25P01", "25P02", "25P03", "25P04", "26000", "XX000"})
"""Rolled back too: read-only since a failover, no transaction or a failed one, timed out, internal error."""
_SUSPECT = _REFUSED | {"57014"}
"""After these the connection is given up. (A BEGIN that was cancelled leaves asyncpg believing in a transaction.)"""

_SESSION = {
    # Whoever loses power leaves sessions behind that hold row locks: the server ends them before their leases expire.
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "2s",
    "statement_timeout": "4s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}


class PostgresDatabase:
    """The `Database` port on PostgreSQL."""

    dialect = "postgresql"

    def __init__(self, engine: AsyncEngine, patient: AsyncEngine, *, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._engine = engine
        self._patient = patient
        self._limit = limit_seconds
        self._closed = False

    @classmethod
    async def open(cls, url: URL, *, pool_size: int, limit_seconds: float = LIMIT_SECONDS) -> Self:
        """Connect.

        Args:
            limit_seconds: longest time a unit may take.

        Raises:
            StartupError: the `postgres` extra is missing, or the server can't be reached or refuses us.
        """
        address, options = split_options(url.set(drivername="postgresql+asyncpg"))
        arguments = {**options, "timeout": min(_CONNECT_SECONDS, limit_seconds)}
        try:
            engine = create_async_engine(
                address,
                pool_size=pool_size,
                max_overflow=0,
                pool_timeout=limit_seconds,
                pool_recycle=1800,
                hide_parameters=True,
                connect_args={**arguments, "command_timeout": limit_seconds},
            )
            patient = create_async_engine(address, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
        except ModuleNotFoundError as error:
            raise StartupError("PostgreSQL needs its driver: pip install 'pilothouse[postgres]'.") from error
        _limit_sessions(engine.sync_engine)
        _probe_idle_connections(engine.sync_engine)
        for each in (engine, patient):
            _leave_out_values(each.sync_engine)
        database = cls(engine, patient, limit_seconds=limit_seconds)
        try:
            await database.read(_ping)
        except Exception as error:
            await database.close()
            where = url.set(query={}).render_as_string(hide_password=True)
            raise StartupError(
                f"PostgreSQL at {where} can't be used ({_reason(error)}). "
                "Check that it runs, the address and the options in PILOTHOUSE_DATABASE_URL, the user and the password."
            ) from error
        return database

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._repeat(partial(self._once, unit, args, kwargs, commit=False), reading=True)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._repeat(partial(self._once, unit, args, kwargs, commit=True), reading=False)

    async def maintain(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS), self._patient.begin() as connection:
                return await connection.run_sync(lambda sync: unit(sync, *args, **kwargs))
        except Exception as error:
            raise _translated(error) from error

    async def close(self) -> None:
        self._closed = True
        # A unit that was cancelled may still be giving its connection back, in a task of SQLAlchemy's own: a pool that
        # is disposed of meanwhile would never close it.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limit
        while self._lent() and loop.time() < deadline:  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(_CLOSING_STEP_SECONDS)
        await self._engine.dispose()
        await self._patient.dispose()

    def _lent(self) -> int:
        pool = self._engine.pool
        return pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def _repeat(self, once: Callable[[float], Awaitable[T]], *, reading: bool) -> T:
        """Run a unit again if it surely left nothing behind, as long as its time lasts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limit
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await once(deadline - _CUT_BEFORE * self._limit)
            except Exception as error:
                if _is_cancelled():  # SQLAlchemy's rollback failed on the way out, which hid it
                    raise asyncio.CancelledError from error
                failure = _translated(error)
                again = isinstance(failure, Unavailable) and (reading or _sqlstate(error) in _REPEATABLE)
                pause = wait * (0.5 + random.random())  # noqa: S311 - jitter
                if not again or loop.time() + pause >= deadline:
                    raise failure from error
            await asyncio.sleep(pause)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _once(self, unit: Callable[..., T], args: Any, kwargs: Any, cut_at: float, *, commit: bool) -> T:
        # A connection into a black hole answers nothing, not even a cancel or a rollback: shortly before the unit's
        # time is over it is cut, so that what waits for it fails and the pool is made anew.
        if self._closed:
            raise Unavailable("The database is closed: the server is stopping.", code="stopping")
        watchdog: asyncio.TimerHandle | None = None
        own: Exception | None = None
        try:
            async with self._engine.connect() as connection:
                watchdog = asyncio.get_running_loop().call_at(cut_at, _driver_of(connection).terminate)
                try:
                    result = await connection.run_sync(lambda sync: unit(sync, *args, **kwargs))
                    if commit:
                        await connection.commit()
                except DBAPIError as error:
                    if _sqlstate(error) in _SUSPECT and not error.connection_invalidated:
                        await connection.invalidate()
                    raise
                except Exception as error:
                    own = error
                    raise
                return result
        except Exception:
            if own is not None:
                raise own  # noqa: B904 - what the rollback met is of no interest to whoever raised this
            raise
        finally:
            if watchdog is not None:
                watchdog.cancel()


def _reason(error: Exception) -> str:
    """Why the driver could not connect, in its own words, without secrets."""
    cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ is not None else error
    cause = cause.orig if isinstance(cause, DBAPIError) and cause.orig is not None else cause
    words = " ".join(str(cause).split())
    return mask_bounded(f"{type(cause).__name__}: {words}" if words else type(cause).__name__, _MOST_REASON_CHARS)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _driver_of(connection: AsyncConnection) -> Any:
    """The connection of asyncpg itself."""
    if connection.sync_connection is None:
        raise InterfaceError("", None, ConnectionError("the connection is closed"))
    return connection.sync_connection.connection.driver_connection


def _ping(connection: Connection) -> None:
    connection.exec_driver_sql("SELECT 1")


def _limit_sessions(engine: Engine) -> None:
    """Have the server bound what a session of ours may hold and wait for. (By SET: poolers refuse start parameters.)"""
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())

    async def _execute(driver: Any) -> None:
        await driver.execute(f"SELECT {settings}")

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.run_async(_execute)


def _probe_idle_connections(engine: Engine) -> None:
    """Ask a connection that has rested whether it is still there: firewalls forget silent ones without a word."""

    @event.listens_for(engine, "checkin")
    def _note(_connection: object, record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        record.info["rests_since"] = asyncio.get_running_loop().time()

    @event.listens_for(engine, "checkout")
    def _probe(connection: Any, record: Any, _proxy: object) -> None:  # pyright: ignore[reportUnusedFunction]
        now = asyncio.get_running_loop().time()
        if now - record.info.pop("rests_since", now) < _PROBE_AFTER_SECONDS:
            return
        try:
            connection.run_async(_answers)
        except Exception as error:
            connection.run_async(_cut)
            raise InvalidatePoolError("the connection does not answer any more") from error


async def _answers(driver: Any) -> None:
    # Not asyncpg's own timeout: after it, asyncpg waits for its cancel to be answered, which a black hole does not do.
    loop = asyncio.get_running_loop()
    watchdog = loop.call_later(_PROBE_SECONDS, driver.terminate)
    try:
        await driver.execute(";")
    finally:
        watchdog.cancel()


async def _cut(driver: Any) -> None:
    driver.terminate()


def _leave_out_values(engine: Engine) -> None:
    """Take the values of rows out of errors: they are people's words, and errors go to logs."""

    @event.listens_for(engine, "handle_error")
    def _strip(context: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        error: BaseException | None = context.original_exception
        while error is not None:
            if getattr(error, "detail", None) is not None:
                error.detail = None  # pyright: ignore[reportAttributeAccessIssue]
            error = error.__cause__


def _sqlstate(error: BaseException) -> str | None:
    if type(getattr(error, "orig", None)).__name__ == _STALE_CLASS:
        return _STALE_PLAN
    # What happens while a connection is made is asyncpg's own error, as it is.
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state if isinstance(state, str) else None


def _translated(error: Exception) -> Exception:
    """`Unavailable` for what may work a moment later, the error itself for everything else."""
    if isinstance(error, Unavailable):
        return error
    state = _sqlstate(error)
    if state in _REPEATABLE or state in _REFUSED:
        log.warning("database_refused", sqlstate=state)
        return Unavailable("The database can't do this right now. Try again shortly.", code="database_unavailable")
    away = isinstance(error, OSError | InterfaceError | OperationalError | PoolTimeoutError | TimeoutError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )
    # What uvloop says of a transport that was cut under an operation.
    cut = isinstance(error, RuntimeError) and "handler is closed" in str(error)
    if away or cut or str(state).startswith(_AWAY) or type(error).__module__.startswith("asyncpg."):
        return Unavailable("The database can't be reached right now. Try again shortly.", code="database_unavailable")
    return error
