"""SQL of runs, steps and event logs.

What a caller reads or writes carries the tenant and the owner; what an executor writes carries the fencing number.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, tuple_, update
from sqlalchemy.engine import Row

from pilothouse.engine.repository import database_now
from pilothouse.runs.events import DELTA_TYPES, EventPlace, EventRow
from pilothouse.runs.tables import run_events, runs, steps

_INSERT_EVENTS = insert(run_events)
_INSERT_STEPS = insert(steps)
_UPDATE_STEPS = (
    update(steps)
    .where(steps.c.run_id == bindparam("b_run_id"), steps.c.number == bindparam("b_number"))
    .values(
        state=bindparam("b_state"),
        error_code=bindparam("b_error_code"),
        finished_at=bindparam("b_finished_at"),
        approval=func.coalesce(bindparam("b_approval", type_=steps.c.approval.type), steps.c.approval),
    )
)
# What every turn runs is built once: building a statement costs more than running it.
_UPDATE_FENCED = update(runs).where(
    runs.c.id == bindparam("b_id"), runs.c.attempt == bindparam("b_attempt"), runs.c.state == bindparam("b_in_state")
)
_OPEN_RUNS = (
    select(runs.c.id, runs.c.state)
    .where(runs.c.conversation_id == bindparam("b_conversation_id"), runs.c.finished_at.is_(None))
    .order_by(runs.c.turn)
)
_HELD_RUNS = (
    select(runs.c.id, runs.c.attempt)
    .where(tuple_(runs.c.id, runs.c.attempt).in_(bindparam("b_held", expanding=True)), runs.c.state == "running")
    .with_for_update(read=True, skip_locked=True)
)


def insert_run(connection: Connection, values: dict[str, Any], *, starts: bool) -> None:
    """Add a run. If it starts at once, its time counts from now, by the database's clock."""
    statement = insert(runs)
    connection.execute(statement.values(started_at=database_now(connection)) if starts else statement, values)


def get_run(connection: Connection, tenant: str, owner: str, run_id: str) -> Row[Any] | None:
    """The caller's run, or None."""
    return connection.execute(
        select(runs).where(runs.c.id == run_id, runs.c.tenant == tenant, runs.c.owner == owner)
    ).first()


def get_run_of_tenant(connection: Connection, tenant: str, run_id: str) -> Row[Any] | None:
    """A run of anybody in a tenant: for its operators."""
    return connection.execute(select(runs).where(runs.c.id == run_id, runs.c.tenant == tenant)).first()


def get_run_for_executor(connection: Connection, run_id: str) -> Row[Any] | None:
    """A run by id alone: for the process that executes it, never for a caller."""
    return connection.execute(select(runs).where(runs.c.id == run_id)).first()


def failures_of(connection: Connection, tenant: str, owner: str, run_ids: Sequence[str]) -> dict[str, str]:
    """The error codes of those of the caller's runs that failed."""
    found = connection.execute(
        select(runs.c.id, runs.c.error).where(
            runs.c.id.in_(run_ids), runs.c.tenant == tenant, runs.c.owner == owner, runs.c.state == "failed"
        )
    )
    return {row.id: row.error.get("code", "") for row in found if row.error}


def list_runs(
    connection: Connection,
    tenant: str,
    owner: str,
    *,
    limit: int,
    before: tuple[int, str] | None,
    conversation_id: str | None,
    state: str | None,
    agent: str | None,
) -> Sequence[Row[Any]]:
    """The caller's runs, newest first, after the place `before` (created_at, id)."""
    where = [runs.c.tenant == tenant, runs.c.owner == owner]
    if conversation_id is not None:
        where.append(runs.c.conversation_id == conversation_id)
    if state is not None:
        where.append(runs.c.state == state)
    if agent is not None:
        where.append(runs.c.agent == agent)
    if before is not None:
        where.append(or_(runs.c.created_at < before[0], and_(runs.c.created_at == before[0], runs.c.id < before[1])))
    return connection.execute(
        select(runs).where(*where).order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
    ).all()


def open_runs_of(connection: Connection, conversation_id: str) -> Sequence[Row[str, str]]:
    """Runs of a conversation that have not ended, oldest first. The caller has checked whose conversation it is."""
    return connection.execute(_OPEN_RUNS, {"b_conversation_id": conversation_id}).all()


def write_fenced(
    connection: Connection, run_id: str, attempt: int, values: dict[str, Any], *, state: str = "running"
) -> bool:
    """Change a run if this attempt still holds it; on PostgreSQL its row stays locked until the commit.

    Returns:
        False where another attempt has taken the run over or it has left `state`: write nothing more.
    """
    place = {"b_id": run_id, "b_attempt": attempt, "b_in_state": state}
    return connection.execute(_UPDATE_FENCED, {**values, **place}).rowcount == 1


def request_cancel(
    connection: Connection, tenant: str, owner: str, run_id: str, *, now: int, reason: str
) -> Row[Any] | None:
    """Record that the caller wants the run stopped, and why; the run as it now is, None if there is none.

    The first wish counts: whoever stops the run gives its reason.
    """
    return connection.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.tenant == tenant, runs.c.owner == owner)
        .values(
            cancel_requested_at=func.coalesce(runs.c.cancel_requested_at, now),
            cancel_reason=func.coalesce(runs.c.cancel_reason, reason),
        )
        .returning(*runs.c)
    ).first()


def insert_events(connection: Connection, run_id: str, rows: Sequence[EventRow], now: int) -> None:
    """Append to a run's log."""
    connection.execute(
        _INSERT_EVENTS,
        [
            {
                "run_id": run_id,
                "attempt": row.attempt,
                "seq": row.number,
                "type": row.type,
                "data": row.data,
                "created_at": now,
            }
            for row in rows
        ],
    )


def insert_deltas(connection: Connection, rows: Sequence[tuple[str, EventRow]], now: int) -> set[str]:
    """Append rows of deltas to the logs of several runs, leaving out runs another attempt has taken over.

    Returns:
        The runs whose rows were written.
    """
    wanted = {(run_id, row.attempt) for run_id, row in rows}
    held = connection.execute(_HELD_RUNS, {"b_held": list(wanted)}).all()
    held_ids = {(row.id, row.attempt) for row in held}
    values = [
        {
            "run_id": run_id,
            "attempt": row.attempt,
            "seq": row.number,
            "type": row.type,
            "data": row.data,
            "created_at": now,
        }
        for run_id, row in rows
        if (run_id, row.attempt) in held_ids
    ]
    if values:
        connection.execute(_INSERT_EVENTS, values)
    return {run_id for run_id, _ in held_ids}


def read_events(connection: Connection, run_id: str, *, after: EventPlace, limit: int) -> list[EventRow]:
    """Rows of the log that end after a place. The caller has checked whose run it is."""
    rows = connection.execute(
        select(run_events.c.attempt, run_events.c.seq, run_events.c.type, run_events.c.data)
        .where(
            run_events.c.run_id == run_id,
            or_(
                run_events.c.attempt > after[0],
                and_(run_events.c.attempt == after[0], run_events.c.seq > after[1]),
            ),
        )
        .order_by(run_events.c.attempt, run_events.c.seq)
        .limit(limit)
    )
    return [EventRow(*row) for row in rows]


def last_event_number(connection: Connection, run_id: str) -> int:
    """The highest event number in the run's log, over all attempts; 0 where it is empty."""
    return connection.execute(
        select(func.coalesce(func.max(run_events.c.seq), 0)).where(run_events.c.run_id == run_id)
    ).scalar_one()


def last_event_of(connection: Connection, run_id: str, attempt: int) -> int:
    """The highest event number an attempt has in the run's log; 0 where it has none."""
    return connection.execute(
        select(func.coalesce(func.max(run_events.c.seq), 0)).where(
            run_events.c.run_id == run_id, run_events.c.attempt == attempt
        )
    ).scalar_one()


def drop_deltas(connection: Connection, *, finished_before: int, most_runs: int) -> int:
    """Remove the deltas of runs that ended before a time: their messages hold the text. Returns rows removed."""
    ended = (
        select(runs.c.id)
        .where(
            runs.c.finished_at < finished_before,
            runs.c.id.in_(select(run_events.c.run_id).where(run_events.c.type.in_(DELTA_TYPES))),
        )
        .limit(most_runs)
    )
    return connection.execute(
        run_events.delete().where(run_events.c.run_id.in_(ended), run_events.c.type.in_(DELTA_TYPES))
    ).rowcount


def insert_steps(connection: Connection, values: Sequence[dict[str, Any]]) -> None:
    """Add steps."""
    connection.execute(_INSERT_STEPS, values)


def finish_steps(connection: Connection, values: Sequence[dict[str, Any]]) -> None:
    """Record how steps ended, or go on: dictionaries of run_id, number, state, error_code, finished_at, approval.

    An `approval` of None leaves the step's own.
    """
    connection.execute(_UPDATE_STEPS, [{f"b_{name}": value for name, value in item.items()} for item in values])


def load_steps(connection: Connection, run_id: str) -> Sequence[Row[Any]]:
    """A run's steps in order. The caller has checked whose run it is."""
    return connection.execute(select(steps).where(steps.c.run_id == run_id).order_by(steps.c.number)).all()


def anything_waits(connection: Connection, run_id: str) -> bool:
    """Whether a call of the run waits for a person."""
    waiting = select(steps.c.number).where(steps.c.run_id == run_id, steps.c.state == "waiting").limit(1)
    return connection.execute(waiting).first() is not None


def lock_run(connection: Connection, run_id: str) -> str | None:
    """The run's state, which stays as it is until the transaction ends; None where there is no such run."""
    return connection.execute(select(runs.c.state).where(runs.c.id == run_id).with_for_update()).scalar_one_or_none()


def step_values(step: Row[Any]) -> dict[str, Any]:
    """A step by its columns, as `insert_steps` takes it."""
    return {column.name: getattr(step, column.name) for column in steps.columns}


def decide_step(connection: Connection, run_id: str, number: int, *, state: str, approval: str) -> None:
    """Move a step whose call waits for a person to what the person said. The caller holds the run's row."""
    connection.execute(
        update(steps)
        .where(steps.c.run_id == run_id, steps.c.number == number, steps.c.state == "waiting")
        .values(state=state, approval=approval)
    )
