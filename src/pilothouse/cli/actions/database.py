"""The database of the settings, for commands that work on it beside a running server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pilothouse.db import Database, open_database
from pilothouse.db.migrate import check_schema, schema_versions, upgrade_schema
from pilothouse.observability.logs import configure_logging
from pilothouse.settings import Settings


@asynccontextmanager
async def configured_database(settings: Settings) -> AsyncGenerator[Database]:
    """The database, with the tables of this release; an empty one gets them.

    The data folder is not locked: a server may use it at the same time.

    Raises:
        StartupError: it can't be opened, or its tables are those of another release.
    """
    async with opened_database(settings) as database:
        current, _newest = await schema_versions(database)
        if current is None:
            await upgrade_schema(database)
        await check_schema(database)
        yield database


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncGenerator[Database]:
    """The database as it is.

    Raises:
        StartupError: it can't be opened.
    """
    configure_logging(settings.log.model_copy(update={"level": "error"}), settings.server.environment)
    database = await open_database(settings.database_url, pool_size=1)
    try:
        yield database
    finally:
        await database.close()
