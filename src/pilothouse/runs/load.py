"""From what is stored of a run to the run as one attempt executes it: its journal, its history, its open calls."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.conversations.transcript import StoredMessage, split_open_tail
from pilothouse.conversations.window import fit
from pilothouse.db import Database
from pilothouse.engine.leases import Ownership
from pilothouse.identity.principal import Principal
from pilothouse.runs.active import ActiveRun, Lapsed
from pilothouse.runs.admit import Admitted, NewRun, starter_of
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.events import RunEvent
from pilothouse.runs.journal import Journal, RunPlace
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.resume import Resumption, restore

Rows = tuple[list[StoredMessage], int, list[StoredMessage]]
"""Earlier messages of the conversation, how many older ones were left out, and the run's own messages."""


class RunLoader:
    """Makes runs ready to be executed in this process.

    Args:
        history_tokens: how much history an agent may be sent, given the model its caller asked for.
        on_written: called with a run's id and the columns of it that were just written.
        lapsed: whether the credential that started a run is still good.
    """

    def __init__(
        self,
        *,
        database: Database,
        agents: AgentRegistry,
        live: LiveRuns,
        deltas: DeltaWriter,
        ownership: Ownership,
        history_tokens: Callable[[ServedAgent, str | None], int],
        on_written: Callable[[str, dict[str, Any]], None],
        lapsed: Lapsed,
    ) -> None:
        self._database = database
        self._agents = agents
        self._live = live
        self._deltas = deltas
        self._ownership = ownership
        self._history_tokens = history_tokens
        self._on_written = on_written
        self._lapsed = lapsed

    def admitted(self, new: NewRun, admitted: Admitted, *, generation: int) -> ActiveRun:
        """A run that was just admitted.

        Args:
            generation: of this process's standing before the admission.
        """
        place = RunPlace(admitted.run_id, admitted.conversation_id, admitted.turn, 1)
        journal = self._open(place, admitted.events, next_seq=2, next_step=1)
        request = {"context": dict(new.context), "stream": new.stream}
        rows = (admitted.history, admitted.unloaded, admitted.own)
        return self._activate(journal, new.agent, new.principal, request, rows=rows, generation=generation)

    def stored(self, stored: Resumption, *, generation: int) -> ActiveRun:
        """A run that was taken over, where its last attempt stopped.

        Args:
            generation: of this process's standing before the takeover.

        Raises:
            Exception: what is stored of it can't be read.
        """
        row = stored.row
        journal = self._open(
            RunPlace(row.id, row.conversation_id, row.turn, row.attempt),
            stored.events,
            next_seq=max((message.seq for message in stored.own), default=0) + 1,
            next_step=stored.next_step,
        )
        request: dict[str, Any] = row.request
        principal = starter_of(row.tenant, row.owner, request)
        rows = (stored.history, stored.unloaded, stored.own)
        agent = self._agents.get(row.agent)
        run = self._activate(journal, agent, principal, request, rows=rows, generation=generation)
        restore(run, stored)
        return run

    def _open(self, place: RunPlace, events: Sequence[RunEvent], *, next_seq: int, next_step: int) -> Journal:
        """The journal of an attempt whose first events are in the log already."""
        live = self._live.open(place.run_id, attempt=place.attempt, first_number=events[0].number)
        for event in events:
            live.publish(event)
        live.mark_durable(events[-1].number)
        return Journal(
            self._database,
            live,
            place,
            next_seq=next_seq,
            next_step=next_step,
            next_event=events[-1].number + 1,
            ownership=self._ownership,
            on_dirty=self._deltas.mark,
            on_written=lambda values: self._on_written(place.run_id, values),
        )

    def _activate(
        self,
        journal: Journal,
        agent: ServedAgent,
        principal: Principal,
        request: dict[str, Any],
        *,
        rows: Rows,
        generation: int,
    ) -> ActiveRun:
        history, unloaded, own = rows
        kept, cut = fit(
            [*history, *own],
            self._history_tokens(agent, request.get("model")),
            keep_from_turn=journal.place.turn,
            already_cut=unloaded,
        )
        if cut is not None:
            journal.set_run(cut=asdict(cut))
        base, recorded = split_open_tail(kept)
        return ActiveRun(
            run_id=journal.place.run_id,
            conversation_id=journal.place.conversation_id,
            agent=agent,
            principal=principal,
            journal=journal,
            ownership=self._ownership,
            generation=generation,
            policy=lambda name: self._agents.policy(agent, name),
            stream=bool(request.get("stream")),
            context=request.get("context") or {},
            asked_model=request.get("model"),
            lapsed=self._lapsed,
            recorded=recorded,
            rows=base,
        )
