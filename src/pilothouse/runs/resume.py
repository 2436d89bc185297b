"""Resumption: take a stored run over and put it back where its last attempt stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai.messages import ModelResponse
from sqlalchemy import Connection
from sqlalchemy.engine import Row

from pilothouse.agents.registry import AgentRegistry
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.transcript import StoredMessage, decode
from pilothouse.errors import RunFailure
from pilothouse.kit.clock import now_ms
from pilothouse.runs import ownership_repository, repository
from pilothouse.runs.active import ActiveRun, OpenCall, Totals
from pilothouse.runs.admit import started_event
from pilothouse.runs.events import RunEvent, to_rows

SUSPECT_CRASHES = 2
"""A run in whose tools so many processes ended in one place is a suspect: it executes alone if it can."""

_FIRST_RETRY_MS = 1_000


@dataclass(slots=True)
class Resumption:
    """What is stored of a run that is to be continued.

    Attributes:
        isolated: it has to execute with nothing beside it.
    """

    row: Row[Any]
    history: list[StoredMessage]
    unloaded: int
    own: list[StoredMessage]
    steps: Sequence[Row[Any]]
    events: list[RunEvent]
    isolated: bool

    @property
    def next_step(self) -> int:
        """The number of the step that comes next."""
        return _next_step(self.steps)


def take_over(
    connection: Connection,
    run_id: str,
    *,
    owner: str,
    states: Sequence[str],
    if_attempt: int | None,
    if_dead: bool = False,
    agents: AgentRegistry,
    isolate: bool = False,
) -> Resumption | None:
    """Raise the fencing number and read all that is needed to go on, in one transaction.

    Args:
        isolate: nothing else executes in this process: a suspect is noted as isolated.
    """
    now = now_ms()
    row = ownership_repository.take_over(
        connection, run_id, owner=owner, states=states, if_attempt=if_attempt, if_dead=if_dead
    )
    if row is None:
        return None
    suspected = row.crashes >= SUSPECT_CRASHES
    if suspected:
        again = min(_FIRST_RETRY_MS * 2 ** (row.crashes - SUSPECT_CRASHES), ownership_repository.LONGEST_RETRY_MS)
        ownership_repository.suspect(connection, run_id, row.attempt, isolated=isolate, retry_after_ms=again)
    steps = repository.load_steps(connection, run_id)
    number = repository.last_event_number(connection, run_id) + 1
    events = [started_event(row.conversation_id, row.agent, row.attempt, number)]
    if row.attempt > 1:
        # What was shown of a step that has no record is withdrawn, whether or not it reached the log.
        data = {"step": _next_step(steps), "reason": "taken_over"}
        events.append(RunEvent(row.attempt, number + 1, "step.restarted", data))
    repository.insert_events(connection, run_id, to_rows(events), now)
    history, unloaded = conversation_rows.load_history(
        connection,
        row.conversation_id,
        before_turn=row.turn,
        most=agents.get(row.agent).limits.history_messages,
    )
    return Resumption(
        row=row,
        history=history,
        unloaded=unloaded,
        own=conversation_rows.load_turn(connection, row.conversation_id, row.turn),
        steps=steps,
        events=events,
        isolated=suspected and isolate,
    )


def _next_step(steps: Sequence[Row[Any]]) -> int:
    return max((step.number for step in steps), default=0) + 1


def restore(run: ActiveRun, stored: Resumption) -> None:
    """Put a continued run where its last attempt stopped: totals, counters, calls that wait for a result."""
    row = stored.row
    run.totals = Totals(row.input_tokens, row.output_tokens, row.cached_tokens, row.cost_nano_usd)
    run.model = row.model
    run.elapsed_seconds = max(0, row.elapsed_ms) / 1000
    run.blamed = row.crashes > 0
    run.iterations = sum(1 for message in stored.own if message.role == "assistant")
    steps = {(step.model_step, step.call_id): step for step in stored.steps if step.kind == "tool"}
    for message, response in zip(stored.own, decode(stored.own), strict=True):
        if not isinstance(response, ModelResponse):
            continue
        run.step = message.step
        run.text = response.text or ""
        try:
            run.note_calls(response.tool_calls)
        except RunFailure as failure:
            run.doomed = failure
        run.open_calls = {
            call.tool_call_id: _open_call(OpenCall(call, message.step), steps.get((message.step, call.tool_call_id)))
            for call in response.tool_calls
        }
    for message in stored.own:
        if message.role == "tool" and message.call_id is not None:
            opened = run.open_calls.get(message.call_id)
            if opened is not None and opened.model_step == message.step:  # models use ids again: that is another call
                del run.open_calls[message.call_id]
    run.may_repeat = row.attempt > 1 and not run.open_calls
    run.tail_recorded = not run.open_calls and stored.own[-1].role != "assistant"


def _open_call(opened: OpenCall, step: Row[Any] | None) -> OpenCall:
    """A call as its intent row left it. One that was started without a result is in doubt unless it may run again."""
    if step is None:
        return opened
    opened.tool_step = step.number
    opened.effect = step.effect or "once"
    opened.approval = step.approval
    opened.tries = 1
    opened.doubtful = step.error_code == "in_doubt" or (step.state == "started" and opened.effect != "pure")
    if step.state in ("waiting", "approved", "denied"):
        opened.state = step.state
    elif step.state == "started" and opened.effect == "once":
        opened.state = "in_doubt"
    return opened
