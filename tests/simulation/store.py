"""The one database of a simulation: a real SQLite in memory with the real schema, and what is watched in it."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import StaticPool
from tests.simulation.virtual import EPOCH_SECONDS, Clock

from pilothouse.db.migrate import upgrade_schema
from pilothouse.runs import repository

_JULIAN_EPOCH = 2440587.5
_WATCHED = {
    "on_run": (
        "UPDATE OF state, attempt ON main.runs",
        "new.id, old.state, new.state, old.attempt, new.attempt, old.lease_owner",
    ),
    "on_event": ("INSERT ON main.run_events", "new.run_id, new.attempt, new.seq, new.type"),
    "on_approved": ("UPDATE OF state ON main.steps WHEN new.state = 'approved'", "new.run_id, new.call_id"),
}
"""What is told to the watcher: after which change, which values."""


class Watcher(Protocol):
    """What is told of changes to runs and their logs."""

    def on_run(self, *values: Any) -> None: ...
    def on_event(self, *values: Any) -> None: ...
    def on_approved(self, *values: Any) -> None: ...


class _OneConnection:
    """The `Database` port on one connection, for the migrations."""

    dialect = "sqlite"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        with self._engine.connect() as connection:
            return unit(connection, *args, **kwargs)

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        with self._engine.begin() as connection:
            return unit(connection, *args, **kwargs)

    async def maintain(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.write(unit, *args, **kwargs)

    async def close(self) -> None:
        self._engine.dispose()


def _memory() -> tuple[Engine, sqlite3.Connection]:
    raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    raw.execute("PRAGMA foreign_keys=ON")
    return create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool), raw


class Store:
    """Keeps one engine, with its compiled statements, for all seeds of a Python process; `reset` empties it."""

    def __init__(self) -> None:
        engine, self._template = _memory()
        asyncio.run(upgrade_schema(_OneConnection(engine)))
        self._engine, self.raw = _memory()
        self._template.backup(self.raw)
        self._clock = Clock()
        self.connection: Connection = self._engine.connect()
        self._watcher: Watcher | None = None
        self._known: dict[Any, Any] = {}
        self._known_at = -1
        self.raw.create_function("julianday", 1, self._julianday)
        for name, (change, values) in _WATCHED.items():
            self.raw.create_function(f"sim_{name}", -1, partial(self._tell, name))
            self.raw.execute(f"CREATE TEMP TRIGGER sim_{name} AFTER {change} BEGIN SELECT sim_{name}({values}); END")
        self._tables = [
            row[0]
            for row in self.raw.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
            if row[0] not in ("pilothouse_version", "sqlite_sequence")
        ]

    def reset(self, clock: Clock, watcher: Watcher) -> None:
        """An empty database on this clock. The watcher is called inside transactions, which may be rolled back."""
        self._clock, self._watcher = clock, None
        self._known_at = -1
        self.raw.execute("PRAGMA foreign_keys=OFF")
        for table in self._tables:
            self.raw.execute(f"DELETE FROM {table}")
        self.raw.execute("PRAGMA foreign_keys=ON")
        self._watcher = watcher

    def read(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a unit of work that only reads. What can't have changed since it was last asked is not asked again."""
        if unit.__module__ != repository.__name__:
            return self._read(unit, *args, **kwargs)  # its result may depend on the time too
        if self._known_at != self.raw.total_changes:
            self._known.clear()
            self._known_at = self.raw.total_changes
        key = (unit, args, tuple(kwargs.items()))
        if key not in self._known:
            self._known[key] = self._read(unit, *args, **kwargs)
        return self._known[key]

    def _read(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.raw.execute("BEGIN")
        try:
            return unit(self.connection, *args, **kwargs)
        finally:
            self._rollback()

    def write(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            result = unit(self.connection, *args, **kwargs)
            self.raw.execute("COMMIT")
            return result
        finally:
            self._rollback()

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What the database holds, seen from outside the simulation."""
        return self.raw.execute(statement, values).fetchall()

    def _tell(self, what: str, *values: Any) -> None:
        if self._watcher is not None:
            getattr(self._watcher, what)(*values)

    def _rollback(self) -> None:
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")
        self.connection.rollback()

    def _julianday(self, _when: str) -> float:
        # The server's own clock; no node's. Half a millisecond more, as the cast that follows cuts.
        return _JULIAN_EPOCH + (EPOCH_SECONDS + self._clock.now + 0.0005) / 86_400
