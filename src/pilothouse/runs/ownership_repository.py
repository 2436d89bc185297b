"""SQL of who executes a run: takeover, hand-over, orphans, blame.

Invariant: `attempt` is the fencing number. Whoever takes a run over raises it; every write of an executor checks it.
Times are the database's own, so that no node's clock matters.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, case, exists, func, or_, select, update
from sqlalchemy.engine import Row

from pilothouse.engine.repository import alive, database_now, last_sign_of
from pilothouse.runs.repository import open_runs_of
from pilothouse.runs.states import ACTIVE
from pilothouse.runs.tables import run_events, runs, steps


def take_over(
    connection: Connection,
    run_id: str,
    *,
    owner: str,
    states: Sequence[str],
    if_attempt: int | None = None,
    if_dead: bool = False,
) -> Row[Any] | None:
    """Make this process the run's executor under a new fencing number.

    With `if_dead`, only if its executor is not alive now: it may have renewed its lease since somebody looked.

    Time in which it waited for a person, or in which no process was there to execute it, does not count as its own.
    With `if_attempt`, a row that somebody else holds locked is left for another time: a host that lost power keeps its
    locks for some seconds.

    Returns:
        The run as it now is, with `elapsed_ms`, its own time so far. None if it is not in one of `states`, or somebody
        else was quicker.
    """
    now = database_now(connection)
    where = [runs.c.id == run_id, runs.c.state.in_(states)]
    if if_attempt is not None:
        where.append(runs.c.attempt == if_attempt)
    if if_dead:
        where.append(or_(runs.c.lease_owner.is_(None), runs.c.lease_owner.not_in(alive(connection))))
    free = select(runs.c.id).where(*where).with_for_update(skip_locked=if_attempt is not None)
    # NULL, for a run that was handed over, is no crash either; nor is what this process left behind itself.
    crashed = and_(runs.c.state == "running", runs.c.lease_owner != owner)
    in_a_tool = exists().where(steps.c.run_id == runs.c.id, steps.c.kind == "tool", steps.c.state == "started")
    written = select(func.max(run_events.c.created_at)).where(run_events.c.run_id == runs.c.id).scalar_subquery()
    rested = case(
        (runs.c.paused_at.is_not(None), runs.c.paused_at),
        (crashed, func.coalesce(last_sign_of(runs.c.lease_owner), written, now)),
        (runs.c.state == "awaiting_input", func.coalesce(written, now)),  # paused by a release that noted no time
        else_=now,
    )
    paused = case((rested < now, now - rested), else_=0)
    return connection.execute(
        update(runs)
        .where(runs.c.id == free.scalar_subquery())
        .values(
            state="running",
            attempt=runs.c.attempt + 1,
            lease_owner=owner,
            started_at=func.coalesce(runs.c.started_at, now),
            paused_at=None,
            paused_ms=runs.c.paused_ms + paused,
            crashes=runs.c.crashes + case((and_(crashed, in_a_tool), 1), else_=0),
            crashes_alone=runs.c.crashes_alone + case((and_(crashed, in_a_tool, runs.c.isolated), 1), else_=0),
            isolated=False,
            retry_at=None,
        )
        .returning(*runs.c, (now - runs.c.started_at - runs.c.paused_ms).label("elapsed_ms"))
    ).first()


LONGEST_RETRY_MS = 30_000
"""Longest wait before a run is tried again under which processes have ended."""


def suspect(connection: Connection, run_id: str, attempt: int, *, isolated: bool, retry_after_ms: int) -> None:
    """Note of a run that was just taken over that it may be what ends processes.

    Args:
        isolated: nothing else executes beside it.
        retry_after_ms: if this attempt dies as well, the next one begins no earlier.
    """
    values = {"isolated": isolated, "retry_at": database_now(connection) + retry_after_ms}
    connection.execute(update(runs).where(runs.c.id == run_id, runs.c.attempt == attempt).values(**values))


def add_pause(connection: Connection, *, run_id: str, pause_ms: int) -> None:
    """So much of the run's time so far was not its own."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(paused_ms=runs.c.paused_ms + pause_ms))


def pause(connection: Connection, run_id: str) -> None:
    """From now on the run's time does not count: it waits for a person."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(paused_at=database_now(connection)))


def release(connection: Connection, tenant: str, run_id: str, *, code: str) -> Row[Any] | None:
    """Let a run that failed with this code go on where its transcript ends, as if it had waited for a person.

    Returns:
        The run as it now is. None if the tenant has no such run that failed so, or its conversation has gone on.
    """
    now, later = database_now(connection), runs.alias("later")
    gone_on = exists().where(later.c.conversation_id == runs.c.conversation_id, later.c.turn > runs.c.turn)
    return connection.execute(
        update(runs)
        .where(
            runs.c.id == run_id,
            runs.c.tenant == tenant,
            runs.c.state == "failed",
            runs.c.error["code"].as_string() == code,
            ~gone_on,
        )
        .values(
            state="running",
            lease_owner=None,
            finished_at=None,
            error=None,
            crashes=0,
            crashes_alone=0,
            isolated=False,
            retry_at=None,
            paused_ms=now - func.coalesce(runs.c.started_at, now),
        )
        .returning(*runs.c)
    ).first()


def next_queued(connection: Connection, conversation_id: str) -> str | None:
    """The id of the conversation's oldest waiting run, where no run is active in it."""
    rows = open_runs_of(connection, conversation_id)
    if not rows or any(row.state in ACTIVE for row in rows):
        return None
    return rows[0].id


def orphans(
    connection: Connection,
    owner: str,
    living: Select[Any] | Sequence[str],
    *,
    agents: Sequence[str],
    suspect_from: int,
    limit: int,
) -> Sequence[Row[str, int, int, int | None]]:
    """Runs of these agents that should be executing but whose process is not among the living, oldest first.

    Those of `owner`, who asks, are none: it may be about to begin them. Those with at least `suspect_from` crashes come
    behind all others.

    Returns:
        Rows of id, attempt, crashes, cancel_requested_at.
    """
    now = database_now(connection)
    return connection.execute(
        select(runs.c.id, runs.c.attempt, runs.c.crashes, runs.c.cancel_requested_at)
        .where(
            runs.c.state == "running",
            runs.c.agent.in_(agents),
            or_(
                runs.c.lease_owner.is_(None),
                and_(runs.c.lease_owner != owner, runs.c.lease_owner.not_in(living)),
            ),
            or_(
                runs.c.retry_at.is_(None),
                runs.c.retry_at < now,
                runs.c.retry_at > now + LONGEST_RETRY_MS,  # said by a clock that was ahead and has been set back
                runs.c.cancel_requested_at.is_not(None),
            ),
        )
        .order_by(runs.c.crashes >= suspect_from, runs.c.created_at)
        .limit(limit)
    ).all()


def owned(connection: Connection, owner: str, *, for_ms: int) -> Sequence[Row[str, int]]:
    """Runs that were started at least so long ago and that a process should be executing: id and attempt."""
    return connection.execute(
        select(runs.c.id, runs.c.attempt).where(
            runs.c.state == "running",
            runs.c.lease_owner == owner,
            runs.c.started_at < database_now(connection) - for_ms,
        )
    ).all()


def release_runs(connection: Connection, owner: str) -> int:
    """Let go of what a process still executes, so that others take it at once and don't count it as a crash."""
    statement = update(runs).where(runs.c.state == "running", runs.c.lease_owner == owner)
    return connection.execute(statement.values(lease_owner=None, paused_at=database_now(connection))).rowcount


def to_cancel(connection: Connection, owner: str) -> Sequence[Row[str, str | None]]:
    """Runs of a process that somebody wants stopped: id and reason."""
    return connection.execute(
        select(runs.c.id, runs.c.cancel_reason).where(
            runs.c.state == "running", runs.c.lease_owner == owner, runs.c.cancel_requested_at.is_not(None)
        )
    ).all()


def conversations_waiting(connection: Connection, agents: Sequence[str]) -> list[str]:
    """Conversations with a waiting run of these agents and no active one: something ended without starting the next."""
    active = select(runs.c.conversation_id).where(runs.c.state.in_(ACTIVE))
    return list(
        connection.execute(
            select(runs.c.conversation_id)
            .where(runs.c.state == "queued", runs.c.agent.in_(agents), runs.c.conversation_id.not_in(active))
            .distinct()
        ).scalars()
    )


def answered(connection: Connection, agents: Sequence[str]) -> list[str]:
    """Runs of these agents that rest although nothing waits for a person any more, or somebody wants them stopped: the
    process that took the answer ended before it could go on.
    """
    waiting = select(steps.c.run_id).where(steps.c.run_id == runs.c.id, steps.c.state == "waiting").exists()
    return list(
        connection.execute(
            select(runs.c.id).where(
                runs.c.state == "awaiting_input",
                runs.c.agent.in_(agents),
                or_(~waiting, runs.c.cancel_requested_at.is_not(None)),
            )
        ).scalars()
    )
