"""The end of a run that no attempt of it can write: it never began, or what is stored of it can't be loaded."""

from typing import Any, Literal

from sqlalchemy import Connection

from pilothouse.kit.clock import now_ms
from pilothouse.runs import repository
from pilothouse.runs.events import RunEvent, to_rows


def end_by_rows(
    connection: Connection,
    run_id: str,
    *,
    attempt: int,
    from_state: str,
    state: Literal["failed", "cancelled"],
    values: dict[str, Any],
    event: dict[str, Any],
) -> bool:
    """Write a run's end without its transcript.

    Args:
        attempt: which has to be the newest.
        values: further columns of the run.
        event: the data of the log's last event.

    Returns:
        False if the run has another attempt or left `from_state`: nothing was written.
    """
    now = now_ms()
    ended = {"state": state, "finished_at": now, "lease_owner": None, **values}
    if not repository.write_fenced(connection, run_id, attempt, ended, state=from_state):
        return False
    number = repository.last_event_number(connection, run_id) + 1
    repository.insert_events(connection, run_id, to_rows([RunEvent(attempt, number, f"run.{state}", event)]), now)
    return True
