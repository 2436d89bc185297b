"""SQLite: one writer thread that commits waiting units together, and a few reader threads.

Invariants: the writer thread never ends before `close`, whatever the disk does; and a unit that was given back as
`Unavailable` because it waited for too long is not run afterwards, unless it had begun.
"""

import asyncio
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from pilothouse.db.database import Unit
from pilothouse.db.private_files import make_private_database, make_private_folder
from pilothouse.errors import StartupError, Unavailable
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_BUSY_MS = 5_000
_READERS = 3
_MOST_UNITS_A_COMMIT = 64
_LIMIT_SECONDS = 10.0
"""Longest time a caller waits: a disk that does not answer must not hold every request."""
_REOPEN_SECONDS = 0.5
_SWITCH_SECONDS = 0.0005
"""The event loop must not wait Python's 5 ms for the writer thread to let go of the interpreter."""

# Result codes that may pass: busy, locked, out of memory, read-only, interrupted, failing I/O, disk full, can't open,
# lock protocol (https://www.sqlite.org/rescode.html). The low byte of an extended code is the primary one.
_PASSING = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15})


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
        """Open or create the file, readable by its owner only.

        Raises:
            StartupError: the folder can't be written or the file is no SQLite database.
        """
        try:
            make_private_folder(path.parent)
        except OSError as error:
            raise StartupError(f"The data folder {path.parent} can't be created or used: {error.strerror}.") from error
        try:
            make_private_database(path)
            database = cls(path)
            with database._write_engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA user_version")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.exec_driver_sql("ROLLBACK")
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
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._readers, work)
        except (TimeoutError, DBAPIError) as error:
            raise _translated(error) from error

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                return await self.maintain(unit, *args, **kwargs)
        except TimeoutError as error:
            raise _translated(error) from error

    async def maintain(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
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
        while True:
            try:
                with self._write_engine.connect() as connection:
                    if self._write_batches(connection):
                        return
            except Exception as error:  # noqa: BLE001 - the writer must not end: open the file anew
                log.warning("database_reopened", reason=_reason(error)[:200])
                if self._closed:
                    self._refuse_waiting()
                    return
                time.sleep(_REOPEN_SECONDS)

    def _refuse_waiting(self) -> None:
        """Nothing more can be written, and nobody may wait for it."""
        batch: list[_Job] = []
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job.error = _away()
                batch.append(job)
        for loop, jobs in _by_loop(batch).items():
            _settle_on(loop, jobs)

    def _write_batches(self, connection: Connection) -> bool:
        """Commit what comes, batch by batch. Returns True once the database was closed, False to open it anew."""
        while True:
            batch, last = self._next_batch()
            sound = not batch or _commit_together(connection, batch)
            for loop, jobs in _by_loop(batch).items():
                _settle_on(loop, jobs)
            if last or not sound:
                return last

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """What waits, at least one job; and whether nothing more will come."""
        batch: list[_Job] = []
        more = self._jobs.get()
        while more is not None:
            if not more.future.cancelled():  # its caller gave up before it began
                batch.append(more)
            if len(batch) == _MOST_UNITS_A_COMMIT:
                return batch, False
            try:
                more = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True


def _commit_together(connection: Connection, batch: list[_Job]) -> bool:
    """One transaction for all units of the batch, each behind its own savepoint.

    Returns:
        Whether the connection is as it was before: False to open another one.
    """
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if _run_units(connection, batch):
            connection.exec_driver_sql("COMMIT")
    except BaseException as error:  # noqa: BLE001 - the commit failed: nobody's unit is durable
        failure = _away()
        failure.__cause__ = error
        for job in batch:
            job.error = job.error or failure
    return _end_transaction(connection)


def _run_units(connection: Connection, batch: list[_Job]) -> bool:
    """Run each unit. What one raises undoes its own work and is kept for its caller.

    Returns:
        Whether there is anything to commit.

    Raises:
        OperationalError: SQLite has given the whole transaction up, as it does when the disk is full.
    """
    alone = len(batch) == 1
    for job in batch:
        if not alone:
            connection.exec_driver_sql("SAVEPOINT unit")
        try:
            job.result = job.call(connection)
        except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the unit
            job.error = _translated(error)
            if alone:
                return False
            connection.exec_driver_sql("ROLLBACK TO unit")
        if not alone:
            connection.exec_driver_sql("RELEASE unit")
    return True


def _end_transaction(connection: Connection) -> bool:
    """See that no transaction is left open. Returns whether that went well."""
    try:
        connection.rollback()
    except Exception:  # noqa: BLE001 - the disk fails: the connection is given up
        return False
    return True


def _away() -> Unavailable:
    return Unavailable("The database file can't be used right now. Try again shortly.", code="database_unavailable")


def _translated(error: BaseException) -> BaseException:
    """`Unavailable` for what may pass, such as a full disk; the error itself for everything else."""
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _PASSING:
            log.warning("database_refused", reason=_reason(error)[:200])
            failure = _away()
            failure.__cause__ = error
            return failure
        return error
    return _away() if isinstance(error, TimeoutError) else error


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
        hide_parameters=True,
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
    return str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error)
