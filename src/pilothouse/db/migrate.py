"""Bring the schema to the version this release knows."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from pilothouse.db.database import Database
from pilothouse.errors import StartupError

_FOLDER = Path(__file__).with_name("migrations")
_VERSION_TABLE = "pilothouse_version"
_OURS = frozenset(
    {"api_keys", "conversations", "idempotency_keys", "leases", "messages", "run_events", "runs", "steps"}
)
_LOCK = 0x50494C4F  # any constant: one upgrade at a time on a PostgreSQL database


async def upgrade_schema(database: Database) -> tuple[str | None, str]:
    """Upgrade to the newest schema; two nodes starting at once take turns.

    Returns:
        The schema version before and after. The same twice where there was nothing to do.

    Raises:
        StartupError: the database was written by a newer release, or holds tables that are not ours.
    """
    return await database.write(_upgrade)


async def schema_versions(database: Database) -> tuple[str | None, str]:
    """The schema version of the database, None where it holds none yet, and the one this release knows.

    Raises:
        StartupError: the database was written by a newer release, or holds tables that are not ours.
    """
    return await database.read(_known_version), _scripts().get_current_head() or ""


async def check_schema(database: Database) -> None:
    """See that the schema is the one this release knows, without changing it.

    Raises:
        StartupError: it is older (says how to upgrade) or newer.
    """
    current = await database.read(_known_version)
    head = _scripts().get_current_head()
    if current != head:
        raise StartupError("The database schema is older than this release. Run: pilothouse db upgrade")


def _upgrade(connection: Connection) -> tuple[str | None, str]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    before = _known_version(connection)
    scripts = _scripts()
    head = scripts.get_current_head() or ""
    if before != head:
        config = Config()
        config.set_main_option("script_location", str(_FOLDER))
        config.attributes["connection"] = connection
        config.attributes["version_table"] = _VERSION_TABLE
        command.upgrade(config, "head")
    return before, head


def _known_version(connection: Connection) -> str | None:
    current = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE}).get_current_revision()
    if current is None and (taken := _OURS.intersection(inspect(connection).get_table_names())):
        raise StartupError(
            f"The database already has tables that Pilothouse did not make ({', '.join(sorted(taken))}). "
            "Use another database."
        )
    known = {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise StartupError(
            f"The database schema ({current}) is newer than this release of Pilothouse. "
            "Install the newer release again, or restore a backup made before the upgrade."
        )
    return current


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_FOLDER))
