"""Schema upgrades."""

import asyncio
from pathlib import Path

from sqlalchemy import make_url

from pilothouse.cli.actions.database import opened_database
from pilothouse.cli.output import show
from pilothouse.db.migrate import schema_versions, upgrade_schema
from pilothouse.engine.folder import FolderLock
from pilothouse.settings import Settings, load_settings


def upgrade() -> None:
    """Bring the tables to the newest version and print which they had.

    Raises:
        StartupError: the database can't be used, or a server uses the folder while there is something to change.
    """
    before, after = asyncio.run(_upgrade(load_settings()))
    show(f"The database is at version {after} already." if before == after else _told(before, after))


def _told(before: str | None, after: str) -> str:
    return f"The database was upgraded from {before or 'nothing'} to {after}."


def _lock(settings: Settings) -> FolderLock | None:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite":
        return None  # PostgreSQL nodes take turns
    return FolderLock.acquire(Path(url.database or ".").absolute().parent)


async def _upgrade(settings: Settings) -> tuple[str | None, str]:
    async with opened_database(settings) as database:
        before, after = await schema_versions(database)
        if before == after:
            return before, after
        lock = _lock(settings)
        try:
            return await upgrade_schema(database)
        finally:
            if lock is not None:
                lock.release()
