"""The promises, checked while the simulation runs and at its end, by one who sees everything at once."""

import json
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from tests.simulation.agent import TOOLS, results_in
from tests.simulation.callers import Sent
from tests.simulation.virtual import EPOCH_SECONDS

from pilothouse.runs.events import START, EventRow, RunEvent, from_rows
from pilothouse.runs.service import Cancelled
from pilothouse.runs.states import NEXT, TERMINAL

if TYPE_CHECKING:
    from tests.simulation.ledger import Work
    from tests.simulation.node import Node
    from tests.simulation.world import World

_NO_FACTS = frozenset({"text.delta", "reasoning.delta", "step.started", "step.restarted"})
_OUR_FAULT = frozenset({"internal_error", "malformed_arguments", "bad_model_output", "stalled", "max_iterations"})
_OPEN = "SELECT count(*) FROM runs WHERE finished_at IS NULL"


class Checks:
    """What must hold. The first thing that doesn't is `world.fail`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._node: Node | None = None
        self._pending: list[tuple[Any, ...]] = []
        self._writers: dict[tuple[str, int], Node] = {}
        self._approved: Counter[tuple[str, str]] = Counter()
        self._keys: dict[tuple[str, str], str] = {}
        self._acknowledged: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._looked_at = -1.0
        self._was_settled = False

    # --- seen from outside ---

    def state(self, run_id: str) -> str:
        return self._world.store.rows("SELECT state FROM runs WHERE id = ?", run_id)[0][0]

    def waiting(self, run_id: str) -> list[str]:
        return [
            row[0]
            for row in self._world.store.rows(
                "SELECT call_id FROM steps WHERE run_id = ? AND state = 'waiting' ORDER BY number", run_id
            )
        ]

    def settled(self) -> bool:
        now = self._world.clock.now
        if now >= self._looked_at + 0.5:
            self._looked_at = now
            self._was_settled = self._world.store.rows(_OPEN)[0][0] == 0
        return self._was_settled

    # --- transactions ---

    def begin_transaction(self, node: "Node") -> None:
        self._node = node
        self._pending.clear()

    def on_run(self, *values: Any) -> None:
        self._pending.append(("run", *values))

    def on_event(self, *values: Any) -> None:
        self._pending.append(("event", *values))

    def on_approved(self, *values: Any) -> None:
        self._pending.append(("approved", *values))

    def end_transaction(self, *, committed: bool) -> None:
        node, self._node = self._node, None
        assert node is not None
        if committed:
            for change in self._pending:
                if change[0] == "run":
                    self._run_changed(node, *change[1:])
                elif change[0] == "event":
                    self._event_written(node, *change[1:])
                else:
                    self._approved[change[1:]] += 1
        self._pending.clear()
        self._held_is_alive()

    def _run_changed(
        self, node: "Node", run_id: str, old: str, new: str, before: int, after: int, had: str | None
    ) -> None:
        world = self._world
        if old != new or before != after:
            world.note(f"run {run_id[-4:]}: {old} {before} -> {new} {after}", node=node)
        if new not in NEXT[old] and not (old == new and before == after):
            world.fail("P4", f"run {run_id[-4:]} went from {old} to {new}")
        if after < before:
            world.fail("P6", f"the fencing number of {run_id[-4:]} went from {before} to {after}")
        if after > before and old == "running" and had is not None:
            self._taken_over(node, run_id, world.owners[had])
        if new in TERMINAL and old != new:
            for work in world.ledger:
                if work.run_id == run_id and work.ended is None and not work.excused:
                    world.fail("P5", f"run {run_id[-4:]} is {new} while its {work.kind} {work.ref} goes on")

    def _taken_over(self, node: "Node", run_id: str, loser: "Node") -> None:
        world = self._world
        if loser is not node:
            if not loser.dead and loser.lease is not None and loser.lease.held():
                world.fail("P6", f"{node.name} took {run_id[-4:]} from {loser.name}, which holds its lease")
            return
        if any(work.run_id == run_id and work.node is node and work.ended is None for work in world.ledger):
            world.fail("P6", f"{node.name} took {run_id[-4:]} from itself while it works on it")

    def _event_written(self, node: "Node", run_id: str, attempt: int, seq: int, kind: str) -> None:
        if attempt and self._writers.setdefault((run_id, attempt), node) is not node:
            other = self._writers[run_id, attempt].name
            self._world.fail(
                "P6", f"{node.name} wrote {kind} {attempt}-{seq} of {run_id[-4:]} under the fencing number of {other}"
            )

    def _held_is_alive(self) -> None:
        world = self._world
        holders = [
            node
            for node in world.slots.values()
            if node is not None and node.lease is not None and not node.dead and node.lease.held()
        ]
        if not holders:
            return
        now = (EPOCH_SECONDS + world.clock.now) * 1000
        rows = dict(world.store.rows("SELECT owner, expires_at FROM leases"))
        for node in holders:
            assert node.lease is not None
            if rows.get(node.lease.owner, 0) <= now:
                world.fail("lease", f"{node.name} believes to hold its lease, the others see it as dead")

    # --- the outside world's work ---

    def begins(self, work: "Work") -> None:
        world, short = self._world, work.run_id[-4:]
        what = f"{work.kind} {work.ref} of {short} at {work.node.name}"
        state, attempt = world.store.rows("SELECT state, attempt FROM runs WHERE id = ?", work.run_id)[0]
        if (state, attempt) != ("running", work.attempt):
            world.fail("P6", f"{what} begins in attempt {work.attempt}, but the run is {state} in attempt {attempt}")
        if work.run_id in self._acknowledged:
            world.fail("P5", f"{what} begins after an acknowledged cancel")
        for other in world.ledger:
            if (
                other.conversation_id == work.conversation_id
                and other.ended is None
                and not other.excused
                and (other.run_id, other.attempt) != (work.run_id, work.attempt)
            ):
                world.fail("P6", f"{what} begins while {other.kind} {other.ref} of {other.run_id[-4:]} goes on")
        same = [w for w in world.ledger if (w.run_id, w.kind, w.ref) == (work.run_id, work.kind, work.ref)]
        if any(w.attempt == work.attempt and w.outcome in ("done", "open") for w in same):
            world.fail("P2", f"{what} begins twice in one attempt")
        if work.kind == "model":
            self._model_begins(work, what)
        else:
            self._tool_begins(work, what, len(same) + 1)

    def _model_begins(self, work: "Work", what: str) -> None:
        recorded = self._world.store.rows(
            "SELECT count(*) FROM messages WHERE run_id = ? AND role = 'assistant'", work.run_id
        )[0][0]
        if recorded > int(work.ref):
            self._world.fail("P2", f"{what} is asked again: {recorded} responses are recorded")

    def _tool_begins(self, work: "Work", what: str, starts: int) -> None:
        world, call = self._world, (work.run_id, work.ref)
        if world.store.rows("SELECT 1 FROM messages WHERE run_id = ? AND role = 'tool' AND call_id = ?", *call):
            world.fail("P2", f"{what} runs again: its result is recorded")
        if self._keys.setdefault(call, work.key) != work.key:
            world.fail("P3", f"{what} got another idempotency key")
        effect, in_doubt, approval = TOOLS[work.name]
        allowed = (0 if approval else 1) + self._approved[call]
        if effect == "once" and in_doubt != "retry" and starts > allowed:
            world.fail("P3", f"{what}, which may run once, is started {starts} times; allowed are {allowed}")
        intent = world.store.rows("SELECT state FROM steps WHERE run_id = ? AND call_id = ?", *call)
        if not intent or intent[0][0] != "started":
            world.fail("P3", f"{what} runs without a recorded intent")

    def whole(self, run_id: str, messages: list[ModelMessage]) -> None:
        """Each call that the model is shown has exactly one result, right after it (P7)."""
        open_calls: Counter[str] = Counter()
        for message in messages:
            if isinstance(message, ModelResponse):
                if +open_calls:
                    self._world.fail("P7", f"the model is shown calls without results in {run_id[-4:]}: {open_calls}")
                open_calls = Counter(call.tool_call_id for call in message.tool_calls)
            else:
                open_calls.subtract(results_in(message))
        if any(open_calls.values()):
            self._world.fail("P7", f"the model is shown an unsound history in {run_id[-4:]}: {dict(open_calls)}")

    # --- callers ---

    def accepted(self, sent: Sent) -> None:
        if self._names.setdefault(sent.name, sent.run_id) != sent.run_id:
            self._world.fail("P1", f"the message {sent.name} made two runs")

    def acknowledged(self, run_id: str, cancelled: Cancelled) -> None:
        world = self._world
        if self.state(run_id) not in TERMINAL:
            world.fail("P5", f"the cancel of {run_id[-4:]} is acknowledged as {cancelled.state}, but it goes on")
        self._acknowledged.setdefault(run_id, world.clock.now)
        for work in world.ledger:
            if work.run_id == run_id and work.ended is None and not work.excused:
                world.fail("P5", f"the cancel of {run_id[-4:]} is acknowledged while {work.kind} {work.ref} goes on")

    def shown(self, run_id: str, events: list[RunEvent]) -> None:
        """A node shows events to a caller: what states a fact must be in the log."""
        for event in events:
            if event.type not in _NO_FACTS and not self._world.store.rows(
                "SELECT 1 FROM run_events WHERE run_id = ? AND attempt = ? AND seq = ?", run_id, *event.place
            ):
                self._world.fail("P4", f"{event.type} {event.id} of {run_id[-4:]} is shown before it is in the log")

    def logged(self, level: str, event: str, values: dict[str, Any]) -> None:
        error = values.get("exc_info")
        if level == "exception":
            error = sys.exc_info()[1]
        if level == "exception" or (level == "error" and error is not None):
            self._world.fail("error", f"{event}: {error!r}"[:400])

    # --- when the faults are over ---

    def takeovers(self) -> None:
        """What the dead left has been taken up by now, and every process holds its lease."""
        world = self._world
        alive = {node.lease.owner for node in world.slots.values() if node is not None and node.lease is not None}
        for run_id, owner, crashes in world.store.rows(
            "SELECT id, lease_owner, crashes FROM runs WHERE state = 'running'"
        ):
            if owner not in alive and crashes < 2:
                world.fail("P1", f"run {run_id[-4:]} of a dead process was not taken over in time")
        for node in world.slots.values():
            if node is None or not node.ready or node.lease is None:
                continue
            if not node.lease.held():
                world.fail("lease", f"{node.name} has not got its lease back")

    def not_settled(self) -> None:
        rows = self._world.store.rows(
            "SELECT id, state, attempt, lease_owner, crashes, cancel_requested_at FROM runs WHERE finished_at IS NULL"
        )
        open_runs = [f"{row[0][-4:]} {row[1]} attempt {row[2]} crashes {row[4]} cancel {row[5]}" for row in rows]
        self._world.fail("P1", f"not at rest in time: {open_runs}, callers done: {self._world.callers.done}")

    def at_the_end(self) -> None:
        self._runs_and_keys()
        self._transcripts()
        logs = self._logs()
        for sent in self._world.callers.sent:
            if sent.whole:
                self._stream(sent, logs[sent.run_id])

    def _runs_and_keys(self) -> None:
        world = self._world
        for run_id, state, error, crashes in world.store.rows("SELECT id, state, error, crashes FROM runs"):
            code = json.loads(error)["code"] if error and error != "null" else None
            if state == "failed" and (code in _OUR_FAULT or (code == "poisoned" and crashes < 3)):
                world.fail("P1", f"run {run_id[-4:]} failed with {code} after {crashes} crashes")
        twice = world.store.rows("SELECT conversation_id, turn FROM runs GROUP BY 1, 2 HAVING count(*) > 1")
        keys = world.store.rows("SELECT resource_id FROM idempotency_keys")
        runs = {row[0] for row in world.store.rows("SELECT id FROM runs")}
        if twice or {key[0] for key in keys} != runs:
            world.fail("P1", f"keys and runs differ: {twice} {keys} {runs}")

    def _transcripts(self) -> None:
        world = self._world
        calls: Counter[tuple[str, str]] = Counter()
        results: Counter[tuple[str, str]] = Counter()
        for run_id, role, call_id, payload in world.store.rows("SELECT run_id, role, call_id, payload FROM messages"):
            if role == "tool":
                results[run_id, call_id] += 1
            elif role == "assistant":
                calls.update((run_id, part["tool_call_id"]) for part in _parts(payload) if "tool_call_id" in part)
        ended = {row[0] for row in world.store.rows("SELECT id FROM runs WHERE finished_at IS NOT NULL")}
        for call in calls.keys() | results.keys():
            if results[call] > 1 or calls[call] != 1 or (call[0] in ended and results[call] != 1):
                world.fail("P7", f"call {call[1]} of {call[0][-4:]}: {calls[call]} times, {results[call]} results")
        done = {(work.run_id, work.ref) for work in world.ledger if work.outcome == "done"}
        for run_id, call_id in world.store.rows(
            "SELECT run_id, call_id FROM steps WHERE kind = 'tool' AND state = 'completed'"
        ):
            if (run_id, call_id) not in done:
                world.fail("P2", f"a result for {call_id} of {run_id[-4:]}, which no tool gave")

    def _logs(self) -> dict[str, list[RunEvent]]:
        logs: dict[str, list[EventRow]] = defaultdict(list)
        for run_id, *row in self._world.store.rows(
            "SELECT run_id, attempt, seq, type, data FROM run_events ORDER BY run_id, attempt, seq"
        ):
            logs[run_id].append(EventRow(*row))
        for run_id, rows in logs.items():
            last = 0
            for row in rows:
                first = row.number - (len(json.loads(row.data)["texts"]) - 1 if row.type.endswith(".delta") else 0)
                if first != last + 1:
                    self._world.fail("P4", f"the log of {run_id[-4:]} goes from {last} to {first}")
                last = row.number
        return {run_id: from_rows(rows, START) for run_id, rows in logs.items()}

    def _stream(self, sent: Sent, log: list[RunEvent]) -> None:
        facts = [event.id for event in log if event.type not in _NO_FACTS]
        got = [event.id for event in sent.seen if event.type not in _NO_FACTS]
        if facts != got:
            self._world.fail("P4", f"{sent.name} saw other facts than the log has: {got} for {facts}")
        shown: dict[int, str] = defaultdict(str)
        for event in sent.seen:
            if event.type == "text.delta":
                shown[event.data["step"]] += event.data["text"]
            elif event.type == "step.restarted":
                shown.pop(event.data["step"], None)
            elif event.type == "message" and sent.streams and shown[event.data["step"]] != event.data["text"]:
                self._world.fail(
                    "P4", f"{sent.name} was shown {shown[event.data['step']]!r} for {event.data['text']!r}"
                )


def _parts(payload: str) -> list[dict[str, Any]]:
    message = json.loads(payload)
    return message[0]["parts"] if isinstance(message, list) else message["parts"]
