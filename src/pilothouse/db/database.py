"""The port through which everything reads and writes.

A unit of work is a plain function of a SQLAlchemy `Connection`: repositories are such functions. The adapter
decides where it runs, so one text serves both databases, a whole transaction costs one hop, and nothing can hold
a connection while it waits for a model or a client (docs/decisions/0003-units-of-work.md).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError

from pilothouse.errors import StartupError

P = ParamSpec("P")
T = TypeVar("T")

Unit = Callable[Concatenate[Connection, P], T]


class Database(Protocol):
    """What both adapters promise. Open it with `open_database`."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        ...

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(connection, *args)` in a transaction that is rolled back; return its result.

        Raises:
            Unavailable: the database can't be reached or is overloaded.
        """
        ...

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(connection, *args)` in a transaction and commit it. Returns once the commit is durable.

        An exception from the unit rolls back its own changes only, even where the adapter commits several
        units together, and is raised here.

        Raises:
            Unavailable: the database can't be reached or is overloaded; nothing was written as far as known.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go of all connections."""
        ...


async def open_database(url: str, *, pool_size: int = 5) -> Database:
    """Connect to `sqlite:///path` or `postgresql://user:password@host/name`.

    Raises:
        StartupError: the address is malformed, names another database, or can't be reached.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartupError(
            "PILOTHOUSE_DATABASE_URL is not a database address. "
            "Use sqlite:///path/to/file.db or postgresql://user:password@host:5432/name."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        from pilothouse.db.sqlite import SqliteDatabase  # noqa: PLC0415 - each adapter only where it is used

        if not parsed.database or parsed.database == ":memory:":
            raise StartupError("PILOTHOUSE_DATABASE_URL names no file. Use sqlite:///path/to/file.db.")
        return SqliteDatabase.open(Path(parsed.database))
    if backend in {"postgresql", "postgres"}:
        from pilothouse.db.postgres import PostgresDatabase  # noqa: PLC0415 - needs the `postgres` extra

        return await PostgresDatabase.open(parsed, pool_size=pool_size)
    raise StartupError(
        f"PILOTHOUSE_DATABASE_URL names {backend}, which is not supported. Use sqlite:/// or postgresql://."
    )
