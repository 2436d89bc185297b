"""Runs the migrations. Apart from `migrate`, so that Alembic is loaded only where there is something to migrate."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def run_upgrade(connection: Connection, *, folder: Path, version_table: str) -> None:
    """Bring the schema to the newest version, within the connection's transaction."""
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = version_table
    command.upgrade(config, "head")
