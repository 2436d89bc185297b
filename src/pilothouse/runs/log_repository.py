"""SQL for those who wait for event logs: many runs in one statement. The callers have checked whose runs they are.

The texts are constants, so that each database prepares them once however many runs they are asked about.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, text

from pilothouse.runs import repository
from pilothouse.runs.events import EventPlace, EventRow

_CHANGED = """
    SELECT w.n FROM {waited} LEFT JOIN runs r ON r.id = w.run_id
    WHERE r.id IS NULL
       OR r.state IN ('completed', 'failed', 'cancelled')
       OR (w.state <> '' AND w.state <> r.state)
       OR EXISTS (
            SELECT 1 FROM run_events e WHERE e.run_id = w.run_id AND (e.attempt, e.seq) > (w.attempt, w.seq)
          )
"""
_WAITED_POSTGRES = """unnest(
        CAST(:run_ids AS text[]), CAST(:attempts AS int[]), CAST(:numbers AS int[]), CAST(:states AS text[])
    ) WITH ORDINALITY AS w(run_id, attempt, seq, state, n)"""
_WAITED_SQLITE = """(
        SELECT key + 1 AS n, json_extract(value, '$[0]') AS run_id, json_extract(value, '$[1]') AS attempt,
               json_extract(value, '$[2]') AS seq, json_extract(value, '$[3]') AS state
        FROM json_each(:waited)
    ) w"""
_CHANGED_POSTGRES = text(_CHANGED.format(waited=_WAITED_POSTGRES))
_CHANGED_SQLITE = text(_CHANGED.format(waited=_WAITED_SQLITE))
_STATES_POSTGRES = text("SELECT id, state FROM runs WHERE id = ANY(CAST(:run_ids AS text[]))")
_STATES_SQLITE = text("SELECT id, state FROM runs WHERE id IN (SELECT value FROM json_each(:run_ids))")
_EVENTS_POSTGRES = text(
    """
    SELECT w.n, e.attempt, e.seq, e.type, e.data
    FROM unnest(CAST(:run_ids AS text[]), CAST(:attempts AS int[]), CAST(:numbers AS int[]))
         WITH ORDINALITY AS w(run_id, attempt, seq, n)
    CROSS JOIN LATERAL (
        SELECT attempt, seq, type, data FROM run_events
        WHERE run_id = w.run_id AND (attempt, seq) > (w.attempt, w.seq)
        ORDER BY attempt, seq LIMIT :page
    ) e
    ORDER BY w.n, e.attempt, e.seq
    LIMIT :most
    """
).bindparams(bindparam("page"), bindparam("most"))


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a run's log.

    Attributes:
        rows: the rows that end after the place that was asked for, oldest first.
        complete: the log held nothing behind them.
        state: of the run, as it was before the log was read: if it is terminal and the page is complete, nothing
            more will come. None if there is no such run.
    """

    rows: list[EventRow]
    complete: bool
    state: str | None


Waited = tuple[str, int, int, str]
"""Run, attempt and number of the place that is known, state that is known ('' if only an end matters)."""


def changed(connection: Connection, waited: Sequence[Waited]) -> list[int]:
    """Indexes of those whose log has grown beyond the place, whose run has ended or is gone, or whose state is not
    the one given.
    """
    if connection.dialect.name == "postgresql":
        run_ids, attempts, numbers, states = (list(column) for column in zip(*waited, strict=True))
        values = {"run_ids": run_ids, "attempts": attempts, "numbers": numbers, "states": states}
        found = connection.execute(_CHANGED_POSTGRES, values)
    else:
        found = connection.execute(_CHANGED_SQLITE, {"waited": json.dumps(waited)})
    return [number - 1 for number in found.scalars()]


def read_pages(
    connection: Connection, wanted: Sequence[tuple[str, EventPlace]], *, page: int, most: int
) -> list[LogPage]:
    """The logs of several runs, each after its place.

    Args:
        connection: in a transaction.
        wanted: runs and places, at least one.
        page: most rows of one run.
        most: about as many rows are read in all; at least `page`.

    Returns:
        One page for each of the first of `wanted`: at least for one, fewer than all if there were too many rows.
    """
    # The states first: what ends a run writes its last events in the same transaction, so they are seen below.
    states = _states(connection, [run_id for run_id, _ in wanted])
    read = _events_postgres if connection.dialect.name == "postgresql" else _events_one_by_one
    pages: list[LogPage] = []
    for (run_id, _), rows in zip(wanted, read(connection, wanted, page=page, most=most), strict=False):
        pages.append(LogPage(rows, len(rows) < page, states.get(run_id)))
    return pages


def _states(connection: Connection, run_ids: list[str]) -> dict[str, str]:
    if connection.dialect.name == "postgresql":
        rows = connection.execute(_STATES_POSTGRES, {"run_ids": run_ids})
    else:
        rows = connection.execute(_STATES_SQLITE, {"run_ids": json.dumps(run_ids)})
    return {row.id: row.state for row in rows}


def _events_postgres(
    connection: Connection, wanted: Sequence[tuple[str, EventPlace]], *, page: int, most: int
) -> list[list[EventRow]]:
    values = {
        "run_ids": [run_id for run_id, _ in wanted],
        "attempts": [attempt for _, (attempt, _) in wanted],
        "numbers": [number for _, (_, number) in wanted],
        "page": page,
        "most": most,
    }
    found = [list[EventRow]() for _ in wanted]
    rows = connection.execute(_EVENTS_POSTGRES, values).all()
    for row in rows:
        found[int(row.n) - 1].append(EventRow(row.attempt, row.seq, row.type, row.data))
    # If the limit of all cut the answer off, the last run that has rows may have more, and those behind it too.
    return found if len(rows) < most else found[: max(rows[-1].n - 1, 1)]


def _events_one_by_one(
    connection: Connection, wanted: Sequence[tuple[str, EventPlace]], *, page: int, most: int
) -> Iterator[list[EventRow]]:
    """A statement costs SQLite nothing on the way: one for each run, as long as there are not too many rows."""
    count = 0
    for run_id, place in wanted:
        rows = repository.read_events(connection, run_id, after=place, limit=page)
        yield rows
        count += len(rows)
        if count >= most:
            return
