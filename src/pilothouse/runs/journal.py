"""The journal of one attempt of a run: what happened, in order, written under the attempt's fencing number.

Callers add messages, steps and events; `commit` makes everything added so far durable in one transaction and only
then shows the events that state facts. Commits of one run never overlap, so its log has no holes; what is added while
a commit is under way goes with the next, so parallel tools share transactions.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.transcript import Role, StoredMessage
from pilothouse.db import Database
from pilothouse.db.patience import until_available
from pilothouse.db.values import column_text
from pilothouse.engine.leases import Ownership
from pilothouse.kit.clock import now_ms
from pilothouse.runs import repository
from pilothouse.runs.errors import Fenced
from pilothouse.runs.events import RunEvent, to_rows
from pilothouse.runs.live import LiveRun


@dataclass(slots=True)
class Batch:
    """What one transaction will write."""

    messages: list[StoredMessage] = field(default_factory=list[StoredMessage])
    new_steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    ended_steps: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    run: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[RunEvent] = field(default_factory=list[RunEvent])
    after: list[Callable[[Connection], Any]] = field(default_factory=list[Callable[[Connection], Any]])
    task: asyncio.Task[list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Which run, which attempt, where in which conversation."""

    run_id: str
    conversation_id: str
    turn: int
    attempt: int


class Journal:
    """Writes one attempt of a run. Not shared between tasks of different runs."""

    def __init__(
        self,
        database: Database,
        live: LiveRun,
        place: RunPlace,
        *,
        next_seq: int,
        next_step: int,
        next_event: int,
        ownership: Ownership,
        on_dirty: Callable[["Journal"], None] | None = None,
        on_written: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._database = database
        self._live = live
        self.place = place
        self._next_seq = next_seq
        self._next_step = next_step
        self._next_event = next_event
        self._ownership = ownership
        self._on_dirty = on_dirty
        self._on_written = on_written
        self._batch = Batch()
        self._uncommitted: list[RunEvent] = []
        self._facts: deque[int] = deque()
        self._held: deque[RunEvent] = deque()
        self._lock = asyncio.Lock()
        self._unsure = False
        self.fenced = False

    @property
    def steps_taken(self) -> int:
        """Number of the newest step."""
        return self._next_step - 1

    def new_step(self) -> int:
        """The next step's number."""
        number = self._next_step
        self._next_step += 1
        return number

    def add_message(
        self, role: Role, payload: str, *, step: int, tokens: int, call_id: str | None = None
    ) -> StoredMessage:
        """Append to the transcript with the next commit."""
        message = StoredMessage(
            turn=self.place.turn,
            seq=self._next_seq,
            run_id=self.place.run_id,
            step=step,
            role=role,
            call_id=call_id,
            payload=payload,
            tokens=tokens,
            pinned=False,
            created_at=now_ms(),
        )
        self._next_seq += 1
        self._batch.messages.append(message)
        return message

    def add_step(self, **values: Any) -> None:
        """Add a step with the next commit. `number`, `kind`, `name` and `state` are required."""
        row: dict[str, Any] = dict.fromkeys(_STEP_COLUMNS)
        row.update(run_id=self.place.run_id, attempt=self.place.attempt, started_at=now_ms())
        row.update(values)
        row["name"] = column_text(row["name"], 200)
        if row["arguments"] is not None:
            row["arguments"] = column_text(row["arguments"])
        self._batch.new_steps.append(row)

    def end_step(
        self,
        number: int,
        *,
        state: str,
        error_code: str | None = None,
        ended: bool = True,
        approval: str | None = None,
    ) -> None:
        """Record a step's end, or with `ended=False` another state it goes on in, with the next commit.

        Args:
            approval: what a person is asked about its call; None: as before.
        """
        self._batch.ended_steps.append(
            {
                "run_id": self.place.run_id,
                "number": number,
                "state": state,
                "error_code": error_code,
                "finished_at": now_ms() if ended else None,
                "approval": approval,
            }
        )

    def set_run(self, **values: Any) -> None:
        """Change columns of the run with the next commit."""
        self._batch.run.update(values)

    def state_fact(self, kind: str, **data: Any) -> None:
        """Add an event that states a fact: shown only after the next commit."""
        event = self._number(kind, data)
        self._uncommitted.append(event)
        self._facts.append(event.number)
        self._held.append(event)

    def show_now(self, kind: str, **data: Any) -> None:
        """Add an event that promises nothing (a delta, a beginning): shown at once, written when convenient."""
        event = self._number(kind, data)
        self._uncommitted.append(event)
        if not self._ownership.held():
            self._facts.append(event.number)  # we may have been replaced: show nothing before the fence was passed
        if self._facts:
            self._held.append(event)  # never before a fact that stands in front of it
        else:
            self._live.publish(event)
        if self._on_dirty is not None:
            self._on_dirty(self)

    async def commit(self, *, after: Callable[[Connection], Any] | None = None) -> Any:
        """Make everything added so far durable, then show it.

        Args:
            after: runs in the same transaction, behind all that is written and what earlier callers gave. Its result
                is returned.

        Raises:
            Fenced: another attempt has the run; nothing was written and nothing more may be.
            Unavailable: the database is away.
        """
        batch = self._batch
        mine = len(batch.after)
        if after is not None:
            batch.after.append(after)
        if batch.task is None:
            batch.task = asyncio.create_task(self._write(batch))
        # A cancelled caller leaves the write to finish: a fact half told would be worse than a late stop.
        results = await asyncio.shield(batch.task)
        return results[mine] if after is not None else None

    async def _write(self, batch: Batch) -> list[Any]:
        async with self._lock:
            if self._batch is batch:
                self._batch = Batch()
            events, self._uncommitted = self._uncommitted, []
            batch.events = events
            if self.fenced:
                raise Fenced(self.place.run_id)
            try:
                results = await self._write_patiently(batch)
            except BaseException:
                # What this batch held is gone, so nothing may follow it: the run goes on from what is stored.
                self.fenced = True
                raise
            if results is None:
                self.fenced = True
                raise Fenced(self.place.run_id)
            self._unsure = False
            if events:
                self._show(events[-1].number)
            if self._on_written is not None:
                self._on_written(batch.run)
            return results

    async def _write_patiently(self, batch: Batch) -> list[Any] | None:
        """Write the batch, waiting for a database that is away for a while: the work is done, only not recorded.

        Or recorded, and the answer was lost: then it is not written again.
        """
        return await until_available(
            lambda tried: self._database.write(_write_batch, self.place, batch, tried=tried, unsure=self._unsure)
        )

    def _show(self, durable: int) -> None:
        """Everything up to this number is committed: show what was held for it, and what may follow."""
        while self._facts and self._facts[0] <= durable:
            self._facts.popleft()
        while self._held and not (self._facts and self._held[0].number >= self._facts[0]):
            self._live.publish(self._held.popleft())
        self._live.mark_durable(durable)

    @property
    def unsure(self) -> bool:
        """Whether nobody knows if deltas were written: the next commit finds out."""
        return self._unsure and not self.fenced

    async def begin_delta_write(self) -> list[RunEvent]:
        """Shown events not written yet, for the common writer; `end_delta_write` must follow where there are any.

        Empty while a commit is under way or facts wait for one, and after a write whose fate is not known: the commit
        takes the deltas along.
        """
        if self._facts or self._lock.locked() or not self._uncommitted or self._unsure or self.fenced:
            return []
        await self._lock.acquire()
        events, self._uncommitted = self._uncommitted, []
        return events

    def end_delta_write(self, events: list[RunEvent], *, written: bool) -> None:
        """The common writer is done with what `begin_delta_write` gave it."""
        if written:
            self._live.mark_durable(events[-1].number)
        else:
            self._uncommitted = [*events, *self._uncommitted]
            self._unsure = True
        self._lock.release()

    def _number(self, kind: str, data: dict[str, Any]) -> RunEvent:
        event = RunEvent(self.place.attempt, self._next_event, kind, data)
        self._next_event += 1
        return event


_STEP_COLUMNS = (
    "run_id",
    "number",
    "kind",
    "name",
    "state",
    "attempt",
    "model_step",
    "call_id",
    "effect",
    "idempotency_key",
    "arguments",
    "approval",
    "told",
    "error_code",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost_nano_usd",
    "first_token_ms",
    "started_at",
    "finished_at",
)


def _write_batch(
    connection: Connection, place: RunPlace, batch: Batch, *, tried: bool = False, unsure: bool = False
) -> list[Any] | None:
    """All of a batch, behind the fence. Returns what its `after` gave, None if another attempt has the run.

    Args:
        connection: in a transaction.
        place: whose batch.
        batch: what to write.
        tried: it may have been written already, as a whole.
        unsure: deltas in front of its own events may have been.
    """
    events = batch.events
    if batch.after:
        # What ends a run looks for the next: nobody may queue one unseen meanwhile. Before the run's own row, as
        # whoever deletes a conversation takes them in this order too.
        conversation_rows.hold_conversation(connection, place.conversation_id)
    if events and (tried or unsure):
        # An earlier commit may still be on its way: with the row locked, either it is there or it never will be.
        repository.lock_run(connection, place.run_id)
        durable = repository.last_event_of(connection, place.run_id, place.attempt)
        if tried and events[-1].number <= durable:
            return [after(connection) for after in batch.after]
        events = [event for event in events if event.number > durable]
    values = batch.run or {"attempt": place.attempt}
    if not repository.write_fenced(connection, place.run_id, place.attempt, values):
        return None
    if batch.messages:
        conversation_rows.insert_messages(connection, place.conversation_id, batch.messages)
    if batch.new_steps:
        repository.insert_steps(connection, batch.new_steps)
    if batch.ended_steps:
        repository.finish_steps(connection, batch.ended_steps)
    if events:
        repository.insert_events(connection, place.run_id, to_rows(events), now_ms())
    return [after(connection) for after in batch.after]
