"""Bring the schema to the version this release knows."""

import asyncio
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from pilothouse.db.database import Database
from pilothouse.errors import StartupError
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_FOLDER = Path(__file__).with_name("migrations")
VERSION_TABLE = "pilothouse_version"
_OURS = frozenset(
    {
        "api_keys",
        "attachment_files",
        "audit_records",
        "conversations",
        "idempotency_keys",
        "leases",
        "message_attachments",
        "messages",
        "run_events",
        "runs",
        "steps",
    }
)
_LOCK = 0x50494C4F  # any constant: one upgrade at a time on a PostgreSQL database
_LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE of a statement that waited longer than lock_timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockWait:
    """How long an upgrade waits for others to let go of a table.

    Whatever comes behind a statement that waits for a lock waits as well, reads too. So PostgreSQL ends each wait soon,
    and the upgrade begins anew after a pause.

    Attributes:
        seconds: longest wait of one statement.
        attempts: how often the upgrade is tried.
        pause_seconds: between two attempts.
    """

    seconds: float = 3.0
    attempts: int = 8
    pause_seconds: float = 5.0


class _LockTimeout(Exception):
    """Others held a lock for too long; the upgrade was rolled back."""


async def upgrade_schema(database: Database, *, wait: LockWait | None = None) -> tuple[str | None, str]:
    """Upgrade to the newest schema; two nodes starting at once take turns.

    Returns:
        The schema version before and after. The same twice where there was nothing to do.

    Raises:
        StartupError: the database was written by a newer release, holds tables that are not ours, or others hold
            locks on its tables for too long.
    """
    wait = wait or LockWait()
    for attempt in range(1, wait.attempts + 1):
        try:
            return await database.maintain(_upgrade, wait.seconds)
        except _LockTimeout:
            log.warning("schema_upgrade_waits_for_lock", attempt=attempt, attempts=wait.attempts)
        if attempt < wait.attempts:
            await asyncio.sleep(wait.pause_seconds)
    raise StartupError(
        "The database schema can't be upgraded: another session holds a lock on one of its tables. "
        f"Nothing was changed, after {wait.attempts} attempts. Wait until that session has ended (a backup by pg_dump "
        "holds its locks to its end; pg_stat_activity shows all sessions), then start again, or run: "
        "pilothouse db upgrade"
    )


async def schema_versions(database: Database) -> tuple[str | None, str]:
    """The schema version of the database, None where it holds none yet, and the one this release knows.

    Raises:
        StartupError: the database was written by a newer release, or holds tables that are not ours.
    """
    return await database.read(_known_version), _revisions()[-1]


async def check_schema(database: Database) -> None:
    """See that the schema is the one this release knows, without changing it.

    Raises:
        StartupError: it is older (says how to upgrade) or newer.
    """
    current = await database.read(_known_version)
    if current != _revisions()[-1]:
        raise StartupError("The database schema is older than this release. Run: pilothouse db upgrade")


def _upgrade(connection: Connection, lock_seconds: float) -> tuple[str | None, str]:
    if connection.dialect.name != "postgresql":
        return _run_missing(connection)
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    timeout = f"{round(lock_seconds * 1000)}ms"
    connection.execute(text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": timeout})
    try:
        return _run_missing(connection)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise _LockTimeout from error
        raise


def _run_missing(connection: Connection) -> tuple[str | None, str]:
    before, head = _known_version(connection), _revisions()[-1]
    if before != head:
        from pilothouse.db.upgrade import run_upgrade  # noqa: PLC0415 - 10 MB and half a second, seldom needed

        run_upgrade(connection, folder=_FOLDER, version_table=VERSION_TABLE)
    return before, head


def _known_version(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names())
    current: str | None = None
    if VERSION_TABLE in tables:
        current = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - ours
    if current is None and (taken := _OURS & tables):
        raise StartupError(
            f"The database already has tables that Pilothouse did not make ({', '.join(sorted(taken))}). "
            "Use another database."
        )
    if current is not None and current not in _revisions():
        raise StartupError(
            f"The database schema ({current}) is newer than this release of Pilothouse. "
            "Install the newer release again, or restore a backup made before the upgrade."
        )
    return current


def stored_schema(connection: Connection) -> str | None:
    """The schema version of a database that has been upgraded once. For checks that are made often."""
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - ours


@cache
def newest_schema() -> str:
    """The schema version this release knows."""
    return _revisions()[-1]


def _revisions() -> list[str]:
    """The schema versions this release knows, oldest first: their files are named `<version>_<words>.py`."""
    return sorted(path.name.partition("_")[0] for path in (_FOLDER / "versions").glob("[0-9]*_*.py"))
