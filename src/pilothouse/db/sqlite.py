"""SQLite: one writer thread that commits waiting units together, and a few reader threads."""

import asyncio
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from pilothouse.db.database import Unit
from pilothouse.errors import StartupError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_MS = 5_000
_READERS = 3
_MOST_UNITS_A_COMMIT = 64
_SWITCH_SECONDS = 0.0005
"""The event loop must not wait Python's 5 ms for the writer thread to let go of the interpreter."""


class _Job:
    """A unit of work on its way to the writer thread and back."""

    __slots__ = ("call", "error", "future", "loop", "result")

    def __init__(self, call: Callable[[Connection], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.call = call
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class SqliteDatabase:
    """The `Database` port on a SQLite file in WAL mode with full sync."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._write_engine = _engine(path, pool=NullPool)
        self._read_engine = _engine(path, pool=QueuePool, pool_size=_READERS, max_overflow=0)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-read")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name="sqlite-write", daemon=True)
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file.

        Raises:
            StartupError: the folder can't be written or the file is no SQLite database.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = cls(path)
            with database._write_engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA user_version")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
        except OSError as error:
            raise StartupError(f"The data folder {path.parent} can't be created or used: {error.strerror}.") from error
        except Exception as error:
            raise StartupError(
                f"The database file {path} can't be opened for writing ({_reason(error)}). "
                "Check the folder's permissions and that the file is a SQLite database."
            ) from error
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
        database._writer.start()
        return database

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def work() -> T:
            with self._read_engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    return unit(connection, *args, **kwargs)
                finally:
                    connection.exec_driver_sql("ROLLBACK")

        if self._closed:
            raise Unavailable("The database is closed: the server is stopping.", code="stopping")
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable("The database is closed: the server is stopping.", code="stopping")
        job = _Job(lambda connection: unit(connection, *args, **kwargs), asyncio.get_running_loop())
        self._jobs.put(job)
        return await job.future

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._write_engine.dispose()
        self._read_engine.dispose()

    def _write_loop(self) -> None:
        with self._write_engine.connect() as connection:
            while (job := self._jobs.get()) is not None:
                batch = [job]
                last = False
                while len(batch) < _MOST_UNITS_A_COMMIT:
                    try:
                        more = self._jobs.get_nowait()
                    except queue.Empty:
                        break
                    if more is None:
                        last = True
                        break
                    batch.append(more)
                _commit_together(connection, batch)
                for loop, jobs in _by_loop(batch).items():
                    _settle_on(loop, jobs)
                if last:
                    return


def _commit_together(connection: Connection, batch: list[_Job]) -> None:
    """One transaction for all units of the batch, each behind its own savepoint."""
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        alone = len(batch) == 1
        for job in batch:
            if not alone:
                connection.exec_driver_sql("SAVEPOINT unit")
            try:
                job.result = job.call(connection)
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the unit
                job.error = error
                if alone:
                    connection.exec_driver_sql("ROLLBACK")
                    return
                connection.exec_driver_sql("ROLLBACK TO unit")
            if not alone:
                connection.exec_driver_sql("RELEASE unit")
        connection.exec_driver_sql("COMMIT")
    except BaseException as error:  # noqa: BLE001 - the commit failed: nobody's unit is durable
        failure = Unavailable("The database file can't be written right now.", code="database_unavailable")
        failure.__cause__ = error
        for job in batch:
            job.error = job.error or failure
        _rollback_quietly(connection)
    finally:
        connection.rollback()


def _rollback_quietly(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("ROLLBACK")
    except OperationalError:
        return


def _by_loop(batch: list[_Job]) -> dict[asyncio.AbstractEventLoop, list[_Job]]:
    groups: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in batch:
        groups.setdefault(job.loop, []).append(job)
    return groups


def _settle_on(loop: asyncio.AbstractEventLoop, jobs: list[_Job]) -> None:
    def settle() -> None:
        for job in jobs:
            job.settle()

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # that loop has ended; nobody waits there any more


def _engine(path: Path, **kwargs: Any) -> Engine:
    pool = kwargs.pop("pool")
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=pool,
        connect_args={"check_same_thread": False},
        **kwargs,
    )

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None  # we say BEGIN ourselves: the driver would begin deferred
        for pragma in (
            f"busy_timeout={_BUSY_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "journal_size_limit=67108864",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error)
