"""Open the database an address names, with the adapter that knows it."""

from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pilothouse.db.database import Database
from pilothouse.errors import StartupError


async def open_database(url: str, *, pool_size: int = 5, limit_seconds: float | None = None) -> Database:
    """Connect to `sqlite:///path` or `postgresql://user:password@host/name`.

    Args:
        pool_size: most connections to PostgreSQL.
        limit_seconds: longest time a unit may take on PostgreSQL; by default 4.5 s.

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
        from pilothouse.db.postgres import LIMIT_SECONDS, PostgresDatabase  # noqa: PLC0415 - needs the `postgres` extra

        return await PostgresDatabase.open(parsed, pool_size=pool_size, limit_seconds=limit_seconds or LIMIT_SECONDS)
    raise StartupError(
        f"PILOTHOUSE_DATABASE_URL names {backend}, which is not supported. Use sqlite:/// or postgresql://."
    )
