"""What callers can do with runs."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Row

from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.transcript import StoredMessage
from pilothouse.db import Database
from pilothouse.db.values import column_text
from pilothouse.errors import Conflict, NotFound, Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger
from pilothouse.runs import ownership_repository, repository
from pilothouse.runs.admit import Admitted, NewRun, admit
from pilothouse.runs.approvals import Decision, Waiting, decide, load_waiting, no_run
from pilothouse.runs.attempt import Outcome
from pilothouse.runs.end import end_by_rows
from pilothouse.runs.errors import POISONED
from pilothouse.runs.events import EventPlace, RunEvent, to_rows
from pilothouse.runs.execute import CANCELLED_BY_CALLER, Executor
from pilothouse.runs.follow import Follower
from pilothouse.runs.prepare import instructions_of
from pilothouse.runs.states import TERMINAL, RunState
from pilothouse.runs.wakeups import Wakeups

log = get_logger(__name__)

_CANCEL_WAIT_SECONDS = 30.0
_REASON_CHARS = 200
_RESTING = frozenset({"awaiting_input"})


@dataclass(slots=True)
class RunView:
    """A run with its steps and its own messages, as stored."""

    row: Row[Any]
    steps: Sequence[Row[Any]]
    messages: list[StoredMessage]


@dataclass(slots=True)
class Accepted:
    """An accepted run, and the task that executes it where that is in this process."""

    run_id: str
    conversation_id: str
    state: str
    task: asyncio.Task[Outcome | None] | None
    replayed: bool


@dataclass(slots=True)
class Cancelled:
    """What became of a request to stop a run."""

    run_id: str
    state: str
    took_effect: list[dict[str, str]]
    already_finished: bool


class Runs:
    """Start, follow, read, answer and stop runs. Everything is the caller's own, or not found."""

    def __init__(
        self, database: Database, executor: Executor, follower: Follower, wakeups: Wakeups, *, queue_length: int
    ) -> None:
        self._database = database
        self._executor = executor
        self._follower = follower
        self._wakeups = wakeups
        self._queue_length = queue_length

    async def start(self, new: NewRun) -> Accepted:
        """Accept a run and begin it. When this returns the run is durable and will reach an end.

        Raises:
            Unavailable: the server is stopping, or the database is away.
            Forbidden: it is to interrupt others, and the caller lacks `runs:write`.
            NotFound, Conflict, TooMany, InvalidRequest: see `admit`.
        """
        if new.on_busy == "interrupt":
            new.principal.require("runs:write")  # it stops a run, as a cancel does
        refusal = self._executor.refusal()
        if refusal is not None:
            raise refusal
        instructions_of(new.agent, dict(new.context))  # a missing prompt variable is the caller's error, said now
        generation = self._executor.generation
        admitted = await admit(self._database, new, owner=self._executor.owner, queue_length=self._queue_length)
        if admitted.replay_of is not None:
            row = await self.get(new.principal, admitted.replay_of)
            task = self._executor.task(row.id)
            return Accepted(row.id, row.conversation_id, row.state, task, replayed=True)
        task = self._executor.start(new, admitted, generation) if admitted.state == "running" else None
        if admitted.to_interrupt:
            await self._interrupt(new.principal, admitted)
        return Accepted(admitted.run_id, admitted.conversation_id, admitted.state, task, replayed=False)

    async def wait(self, principal: Principal, accepted: Accepted) -> Outcome | None:
        """Until the run has ended or waits for a person.

        Returns:
            Its outcome where it ran here in one attempt; None where it has to be read back.

        Raises:
            Unavailable: this server stops before that; the run goes on elsewhere, or here after the start.
        """
        task = accepted.task
        if task is not None:
            await asyncio.wait([task])
            outcome = None if task.cancelled() else task.result()
            if outcome is not None and outcome.complete:
                return outcome
        await self._check_owner(principal, accepted.run_id)
        await self._follower.until(accepted.run_id, _RESTING)
        if self._executor.stopping and (await self.get(principal, accepted.run_id)).state in ("running", "queued"):
            raise Unavailable(
                f"This server stops before run {accepted.run_id} has ended. The run is kept and goes on: "
                f"ask GET /v1/runs/{accepted.run_id} for its answer.",
                code="stopping",
                headers={"Retry-After": "1"},
                run_id=accepted.run_id,
            )
        return None

    async def get(self, principal: Principal, run_id: str) -> Row[Any]:
        """The caller's run.

        Raises:
            NotFound: the caller has no such run.
        """
        row = await self._database.read(repository.get_run, principal.tenant, principal.subject, run_id)
        if row is None:
            raise no_run()
        return row

    async def view(self, principal: Principal, run_id: str) -> RunView:
        """The caller's run with its steps and messages.

        Raises:
            NotFound: the caller has no such run.
        """
        view = await self._database.read(_load_view, principal.tenant, principal.subject, run_id)
        if view is None:
            raise no_run()
        return view

    async def page(
        self,
        principal: Principal,
        *,
        limit: int,
        before: tuple[int, str] | None = None,
        conversation_id: str | None = None,
        state: str | None = None,
        agent: str | None = None,
    ) -> Sequence[Row[Any]]:
        """The caller's runs, newest first."""
        return await self._database.read(
            repository.list_runs,
            principal.tenant,
            principal.subject,
            limit=limit,
            before=before,
            conversation_id=conversation_id,
            state=state,
            agent=agent,
        )

    async def follow(
        self, principal: Principal, run_id: str, after: EventPlace, *, until_input: bool = False
    ) -> AsyncIterator[list[RunEvent]]:
        """Batches of the run's events after a place, as they come, to its last event.

        Args:
            until_input: end too when the run waits for a person.

        Raises:
            NotFound: the caller has no such run.
        """
        await self._check_owner(principal, run_id)
        async for batch in self._follower.follow(run_id, after):
            asks = until_input and any(event.type == "approval.requested" for event in batch)
            yield batch
            del batch  # what waits for the next must not keep the last one in memory
            if not asks:
                continue
            # It may not rest yet, with other calls still going on, and come to rest without a further event.
            if await self._follower.until(run_id, _RESTING) == "awaiting_input":
                return

    async def events(self, principal: Principal, run_id: str, after: EventPlace, *, limit: int) -> list[RunEvent]:
        """Events in the log after a place, at once.

        Raises:
            NotFound: the caller has no such run.
        """
        await self.get(principal, run_id)
        return await self._follower.page(run_id, after, limit)

    async def cancel(self, principal: Principal, run_id: str, *, reason: str = CANCELLED_BY_CALLER) -> Cancelled:
        """Stop a run. Returns when the model's socket and the tools have stopped, with what took effect.

        Raises:
            NotFound: the caller has no such run.
        """
        row = await self._database.write(
            repository.request_cancel,
            principal.tenant,
            principal.subject,
            run_id,
            now=now_ms(),
            reason=column_text(reason, _REASON_CHARS),
        )
        if row is None:
            raise no_run()
        if row.state in TERMINAL:
            return await self._cancelled(principal, run_id, already_finished=True)
        await self._stop(row, row.cancel_reason or reason)
        return await self._cancelled(principal, run_id, already_finished=False)

    async def waiting(self, principal: Principal, run_id: str) -> Waiting:
        """The calls of a run that wait for a person, as far as the caller may see them: see `approvals`.

        Raises:
            NotFound: the caller has no such run, and may decide nothing of it.
        """
        return await self._database.read(load_waiting, principal, run_id, policies=self._executor.policy)

    async def answer(
        self,
        principal: Principal,
        run_id: str,
        *,
        call_id: str,
        approve: bool,
        step: int | None = None,
        arguments_hash: str | None = None,
    ) -> Accepted:
        """Say yes or no to a call that waits for a person; the run goes on once all its waiting calls are answered.

        Args:
            step: of the call, as the caller saw it.
            arguments_hash: as `step`.

        Raises:
            NotFound: the caller has no such run, or it has no such call.
            Forbidden: the caller may not decide about this call.
            Conflict: the run does not wait, the call was answered the other way already, or is another one than named.
        """
        decision = Decision(call_id=call_id, approve=approve, step=step, arguments_hash=arguments_hash)
        decided = await self._database.write(decide, principal, run_id, decision, policies=self._executor.policy)
        log.info(
            "call_decided",
            run_id=run_id,
            step=decided.step,
            approve=approve,
            subject=principal.subject,
            own=decided.own,
        )
        if decided.goes_on:
            await self._executor.resume(run_id, states=("awaiting_input",))
        row = await self._database.read(repository.get_run_for_executor, run_id)
        if row is None:
            raise no_run()
        return Accepted(run_id, row.conversation_id, row.state, self._executor.task(run_id), replayed=False)

    async def _check_owner(self, principal: Principal, run_id: str) -> None:
        """Nothing if the run is the caller's, without a read if it executes here.

        Raises:
            NotFound: the caller has no such run.
        """
        whose = self._executor.principal(run_id)
        if whose is None or (whose.tenant, whose.subject) != (principal.tenant, principal.subject):
            await self.get(principal, run_id)

    async def release(self, principal: Principal, run_id: str) -> RunState:
        """Let a run of the caller's tenant go on that was parked because processes ended under it.

        Calls that were open when it was parked have a result that says so; they are not made again by themselves.

        Raises:
            NotFound: the tenant has no such run, or it is somebody else's and not parked.
            Conflict: it is not parked, or its conversation has gone on.
        """
        row = await self._database.write(_release, principal, run_id)
        if row is None:
            raise NotFound("The tenant has no parked run with this id.", code="run_not_found")
        self._follower.changed(run_id)
        self._wakeups.reapers_look()
        return row.state

    async def _interrupt(self, principal: Principal, admitted: Admitted) -> None:
        """Stop what stood in the way; the run that asked for it starts when they have stopped."""
        for run_id in reversed(admitted.to_interrupt):  # the active one last, or its end would start the next of them
            try:
                await self.cancel(principal, run_id, reason=f"interrupted by {admitted.run_id}")
            except Unavailable as error:
                # The wish is recorded, and the run that wants it is accepted: whoever has the other one will stop it.
                log.warning("interrupt_pending", run_id=run_id, reason=error.message)

    async def _stop(self, row: Row[Any] | None, reason: str) -> None:
        """Bring a run to its end wherever it stands: executing here, waiting, or on its way from one to the other."""
        give_up = time.monotonic() + _CANCEL_WAIT_SECONDS
        while row is not None and row.state not in TERMINAL and time.monotonic() < give_up:
            if row.state == "queued" and await self._database.write(_cancel_queued, row.id, reason):
                self._follower.changed(row.id)
                await self._start_next(row.conversation_id)
                return
            if row.state == "awaiting_input":
                await self._executor.resume(row.id, states=("awaiting_input",))
            task = self._executor.cancel(row.id, reason)
            if task is not None:
                await asyncio.wait([task], timeout=_CANCEL_WAIT_SECONDS)
            elif self._executor.stopping:
                return  # what is wanted is recorded: whoever takes the run up stops it
            else:
                self._wakeups.reapers_look()
                await self._follower.wait_for_change(row.id)
            row = await self._database.read(repository.get_run_for_executor, row.id)

    async def _start_next(self, conversation_id: str) -> None:
        following = await self._database.read(ownership_repository.next_queued, conversation_id)
        if following is not None:
            await self._executor.resume(following, states=("queued",))

    async def _cancelled(self, principal: Principal, run_id: str, *, already_finished: bool) -> Cancelled:
        view = await self.view(principal, run_id)
        if view.row.state not in TERMINAL:
            raise Unavailable(
                f"Run {run_id} was asked to stop but has not stopped yet. Ask again to see whether it has.",
                code="cancel_pending",
                headers={"Retry-After": "2"},
            )
        changed = [
            {"tool": step.name, "call_id": step.call_id, "status": "in_doubt" if step.state == "in_doubt" else "ok"}
            for step in view.steps
            if step.kind == "tool" and step.effect != "pure" and step.state in ("completed", "in_doubt")
        ]
        return Cancelled(run_id, view.row.state, changed, already_finished)


def _load_view(connection: Connection, tenant: str, owner: str, run_id: str) -> RunView | None:
    row = repository.get_run(connection, tenant, owner, run_id)
    if row is None:
        return None
    return RunView(
        row,
        repository.load_steps(connection, run_id),
        conversation_rows.load_turn(connection, row.conversation_id, row.turn),
    )


def _release(connection: Connection, principal: Principal, run_id: str) -> Row[Any] | None:
    found = repository.get_run_of_tenant(connection, principal.tenant, run_id)
    if found is None:
        return None
    conversation_rows.hold_conversation(connection, found.conversation_id)  # nobody may send a message meanwhile
    row = ownership_repository.release(connection, principal.tenant, run_id, code=POISONED)
    if row is None and found.owner != principal.subject:
        return None  # of a run that is somebody else's nothing is told
    if row is None:
        raise Conflict(
            f"Run {run_id} can't be released: it is not parked ({POISONED}), or its conversation has gone on. "
            "Fork it to begin it again.",
            code="not_parked",
        )
    event = RunEvent(row.attempt, repository.last_event_number(connection, run_id) + 1, "run.released", {})
    repository.insert_events(connection, run_id, to_rows([event]), now_ms())
    return row


def _cancel_queued(connection: Connection, run_id: str, reason: str) -> bool:
    """End a run that never began; False where it has begun meanwhile."""
    event: dict[str, Any] = {"reason": reason, "took_effect": []}
    return end_by_rows(connection, run_id, attempt=0, from_state="queued", state="cancelled", values={}, event=event)
