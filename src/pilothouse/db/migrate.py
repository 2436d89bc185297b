"""Bring the schema to the version this release knows."""

from functools import cache
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from pilothouse.db.database import Database
from pilothouse.errors import StartupError

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


async def upgrade_schema(database: Database) -> tuple[str | None, str]:
    """Upgrade to the newest schema; two nodes starting at once take turns.

    Returns:
        The schema version before and after. The same twice where there was nothing to do.

    Raises:
        StartupError: the database was written by a newer release, or holds tables that are not ours.
    """
    return await database.maintain(_upgrade)


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


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
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
