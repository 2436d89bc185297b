"""The one database of a simulation: a real SQLite in memory with the real schema, and what is watched in it."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import StaticPool
from tests.simulation.virtual import EPOCH_SECONDS, Clock

from pilothouse.db.migrate import upgrade_schema

_JULIAN_EPOCH = 2440587.5
_WATCHED = (
    # name, table, event, what is called
    ("sim_runs", "AFTER UPDATE OF state, attempt ON main.runs", "sim_run(new.id, old.state, new.state, old.attempt, "
     "new.attempt, old.lease_owner, new.lease_owner)"),
    ("sim_steps", "AFTER UPDATE OF state ON main.steps WHEN new.state = 'approved'", "sim_approved(new.run_id, "
     "new.call_id)"),
    ("sim_events", "AFTER INSERT ON main.run_events", "sim_event(new.run_id, new.attempt, new.seq, new.type)"),
)  # fmt: skip


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
        self.on_run: Callable[..., None] = _nothing
        self.on_event: Callable[..., None] = _nothing
        self.on_approved: Callable[..., None] = _nothing
        self.raw.create_function("julianday", 1, self._julianday)
        self.raw.create_function("sim_run", 7, lambda *values: self.on_run(*values))
        self.raw.create_function("sim_event", 4, lambda *values: self.on_event(*values))
        self.raw.create_function("sim_approved", 2, lambda *values: self.on_approved(*values))
        for name, when, call in _WATCHED:
            self.raw.execute(f"CREATE TEMP TRIGGER {name} {when} BEGIN SELECT {call}; END")
        self._tables = [
            row[0]
            for row in self.raw.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
            if row[0] not in ("pilothouse_version", "sqlite_sequence")
        ]

    def reset(self, clock: Clock, watcher: Watcher) -> None:
        """An empty database on this clock. The watcher is called inside transactions, which may be rolled back."""
        self._clock = clock
        self.raw.execute("PRAGMA foreign_keys=OFF")
        for table in self._tables:
            self.raw.execute(f"DELETE FROM {table}")
        self.raw.execute("PRAGMA foreign_keys=ON")
        self.on_run, self.on_event, self.on_approved = watcher.on_run, watcher.on_event, watcher.on_approved

    def read(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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

    def _rollback(self) -> None:
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")
        self.connection.rollback()

    def _julianday(self, _when: str) -> float:
        # The server's own clock; no node's. Half a millisecond more, as the cast that follows cuts.
        return _JULIAN_EPOCH + (EPOCH_SECONDS + self._clock.now + 0.0005) / 86_400


def _nothing(*_values: Any) -> None:
    pass
