"""The database: one port (`Database`), two adapters (SQLite in threads, PostgreSQL over asyncpg), migrations."""

from pilothouse.db.database import Database
from pilothouse.db.opening import open_database

__all__ = ["Database", "open_database"]
