"""P1, P4, P6, P7 over whole lives: any order of messages, answers, calls, approvals, cancels, crashes and deploys.

A Hypothesis state machine drives one process after another on one database. The model and the tool wait at gates that
only the machine opens, so every instant it acts in is one in which a real caller could act.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from sqlalchemy import Connection, select, update
from tests.promises.test_p2_finished_work_is_never_repeated import check_events, check_whole
from tests.support.node import CutDatabase, Node

from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.transcript import assemble
from pilothouse.db import Database, open_database, postgres
from pilothouse.errors import Conflict, TooMany
from pilothouse.identity.principal import local_principal
from pilothouse.runs import ownership_repository, repository
from pilothouse.runs.active import current_run
from pilothouse.runs.events import START, RunEvent, from_rows
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.states import ACTIVE, NEXT, TERMINAL
from pilothouse.runs.tables import runs, steps
from pilothouse.runs.wakeups import NoWakeups
from pilothouse.settings import Settings
from pilothouse.tools import tool

T = TypeVar("T")

QUEUE_LENGTH = 2
MOST_LOOKS = 5_000  # counted, not timed: a machine that stands still for a while breaks no promise
MOST_ROUNDS = 100
HANG_SECONDS = 60
ME = local_principal()


@dataclass
class Gates:
    """Where model requests and tools wait until the machine lets them go on, by run."""

    model: dict[str, asyncio.Future[ModelResponse]] = field(default_factory=dict)
    tool: dict[str, asyncio.Future[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.model) + len(self.tool)


async def wait_at(gates: dict[str, asyncio.Future[T]]) -> T:
    run = current_run.get()
    assert run is not None
    assert run.run_id not in gates, "one run is in the same place twice"
    gate: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    gates[run.run_id] = gate
    try:
        return await gate
    finally:
        del gates[run.run_id]


def agent_at(gates: Gates) -> Agent[Any, Any]:
    async def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        check_whole(messages)
        return await wait_at(gates.model)

    @tool(effect="pure", name="act")
    async def act() -> str:
        return await wait_at(gates.tool)

    @tool(effect="once", name="spend", approval=True)
    async def spend() -> str:
        return await wait_at(gates.tool)

    return Agent(FunctionModel(answer, model_name="gated"), name="gated", tools=[act, spend])


class LookAtOnce(NoWakeups):
    """What wants the reaper to look makes it look: its own beat would make the machine slow."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._wanted = asyncio.Event()
        self.idle = True
        self.task = asyncio.create_task(self._run())

    def reapers_look(self) -> None:
        self.idle = False
        self._wanted.set()

    async def _run(self) -> None:
        while await self._wanted.wait():
            self._wanted.clear()
            await self._reaper.once()
            self.idle = not self._wanted.is_set()


@dataclass
class Client:
    """A caller that follows one run, and comes back where it was."""

    conversation: str
    state: str
    streams: bool
    seen: list[RunEvent] = field(default_factory=list)
    following: asyncio.Task[None] | None = None


class LifeOfRuns(RuleBasedStateMachine):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database: Database = self.do(open_database(url))
        self.conversations: list[str] = []
        self.clients: dict[str, Client] = {}
        self.logs: dict[str, list[RunEvent]] = {}
        self.calls = 0
        self.do(self.begin_process())

    # --- processes ---

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def begin_process(self) -> None:
        self.gates = Gates()
        self.dying = CutDatabase(self.database)
        settings = Settings(runs={"queue_length": QUEUE_LENGTH})
        self.node = Node(self.dying, agent_at(self.gates), settings=settings)
        self.reaper = Reaper(self.dying, self.node.executor, alone=True, interval_seconds=60)
        self.wakeups = self.node.runs._wakeups = LookAtOnce(self.reaper)
        self.node.executor.isolation.on_end = self.wakeups.reapers_look
        await self.database.write(forget_waits)
        await self.reaper.once()
        for run_id, client in self.clients.items():
            self.follow(run_id, client)
        await self.settle()

    async def end_process(self, *, gracefully: bool) -> None:
        if not gracefully:
            self.dying.dead.set()
        tasks = [task for run_id in self.clients if (task := self.node.executor.task(run_id)) is not None]
        if gracefully:
            await self.node.executor.close(grace_seconds=0)
            await self.node.deltas.write_all()
        following = [client.following for client in self.clients.values()]
        await self.node.abandon([self.wakeups.task, *tasks, *following])

    def follow(self, run_id: str, client: Client) -> None:
        after = client.seen[-1].place if client.seen else START
        client.following = asyncio.create_task(self.node.watch(run_id, client.seen, after))

    async def settle(self) -> None:
        """Until every run that executes waits at a gate, and nothing else could begin."""
        calm = 0
        for _ in range(MOST_LOOKS):
            unsettled = await self.unsettled()
            calm = 0 if unsettled else calm + 1
            if calm == 2:
                break
            await asyncio.sleep(0.002)
        else:
            raise AssertionError(f"does not settle: {unsettled}, {await self.database.read(states_of)}")
        for run_id, state in (await self.database.read(states_of)).items():
            client = self.clients.get(run_id)
            if client is not None and state != client.state:
                assert state in NEXT[client.state] or state in reachable(client.state), (client.state, state)
                client.state = state

    async def unsettled(self) -> list[str]:
        """What still goes on."""
        executor = self.node.executor
        alone = executor.isolation.run_id  # others wait until it has recorded something
        going = [
            run_id
            for run_id in executor._tasks
            if run_id not in self.gates.model and run_id not in self.gates.tool and alone in (None, run_id)
        ]
        waiting = await self.database.read(ownership_repository.conversations_waiting, ["gated"])
        looking = [] if self.wakeups.idle else ["the reaper looks"]
        return [*going, *waiting, *(task.get_name() for task in executor._next), *looking]

    def open_runs(self, *wanted: str) -> list[str]:
        return [run_id for run_id, client in self.clients.items() if client.state in wanted]

    # --- what callers do ---

    @rule(place=st.integers(0, 1), on_busy=st.sampled_from(["reject", "queue", "interrupt"]))
    def send(self, place: int, on_busy: str) -> None:
        conversation = self.conversations[place] if place < len(self.conversations) else None
        self.do(self._send(conversation, on_busy))

    async def _send(self, conversation: str | None, on_busy: str) -> None:
        mine = [run for run, client in self.clients.items() if client.conversation == conversation]
        busy = [run for run in mine if self.clients[run].state not in TERMINAL]
        streams = len(self.clients) % 2 == 0
        try:
            accepted = await self.node.start("hello", conversation_id=conversation, on_busy=on_busy, stream=streams)
        except Conflict as error:
            named = error.extra["active_run_id"]
            assert (on_busy, named in busy) == ("reject", True)
            return
        except TooMany:
            assert on_busy == "queue"
            assert len(busy) > QUEUE_LENGTH
            return
        if conversation is None:
            self.conversations.append(accepted.conversation_id)
        assert not busy or on_busy != "reject"
        assert accepted.state == ("queued" if busy else "running")
        client = Client(accepted.conversation_id, accepted.state, streams)
        self.clients[accepted.run_id] = client
        self.follow(accepted.run_id, client)
        await self.settle()
        if on_busy == "interrupt":
            assert {self.clients[run].state for run in busy} <= {"cancelled"}
            assert client.state == "running"

    @precondition(lambda self: self.open_runs("queued", "running", "awaiting_input"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(self.open_runs("queued", "running", "awaiting_input")))
        self.do(self._cancel(run_id))

    async def _cancel(self, run_id: str) -> None:
        assert (await self.node.runs.cancel(ME, run_id)).state == "cancelled"
        assert run_id not in self.gates.model, "the model is still asked"
        assert run_id not in self.gates.tool, "the tool still runs"
        await self.settle()

    @rule()
    def cancel_what_has_ended(self) -> None:
        for run_id in self.open_runs(*TERMINAL)[:1]:
            result = self.do(self.node.runs.cancel(ME, run_id))
            assert (result.already_finished, result.state) == (True, self.clients[run_id].state)

    @precondition(lambda self: self.asking())
    @rule(data=st.data(), approve=st.booleans())
    def decide(self, data: st.DataObject, approve: bool) -> None:
        run_id = data.draw(st.sampled_from(self.asking()))
        self.do(self._decide(run_id, approve=approve))

    def asking(self) -> list[str]:
        """Runs that asked a person something; some of their other calls may still be going on."""
        open_runs = self.open_runs("running", "awaiting_input")
        return [run_id for run_id in open_runs if self.do(self.database.read(waiting_calls, run_id))]

    async def _decide(self, run_id: str, *, approve: bool) -> None:
        waiting = await self.database.read(waiting_calls, run_id)
        assert waiting
        await self.node.runs.answer(ME, run_id, call_id=waiting[0], approve=approve)
        await self.settle()

    # --- what the model and the tool do ---

    @precondition(lambda self: self.gates.model)
    @rule(data=st.data(), kind=st.sampled_from(["text", "text", "act", "spend", "both", "error"]))
    def model_answers(self, data: st.DataObject, kind: str) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.gates.model)))
        self.do(self._model_answers(run_id, kind))

    async def _model_answers(self, run_id: str, kind: str) -> None:
        if kind == "error":
            self.gates.model[run_id].set_exception(ModelHTTPError(400, "gated"))
        else:
            names = {"text": [], "act": ["act"], "spend": ["spend"], "both": ["spend", "act"]}[kind]
            calls = [ToolCallPart(name, {}, tool_call_id=self.new_call_id()) for name in names]
            self.gates.model[run_id].set_result(ModelResponse(parts=[TextPart(f"I say {kind}."), *calls]))
        await self.settle()
        expected = {"text": "completed", "error": "failed", "spend": "awaiting_input"}.get(kind, "running")
        assert self.clients[run_id].state == expected

    def new_call_id(self) -> str:
        self.calls += 1
        return f"call_{self.calls}"

    @precondition(lambda self: self.gates.tool)
    @rule(data=st.data(), fails=st.booleans())
    def tool_ends(self, data: st.DataObject, fails: bool) -> None:
        run_id = data.draw(st.sampled_from(sorted(self.gates.tool)))
        self.do(self._tool_ends(run_id, fails=fails))

    async def _tool_ends(self, run_id: str, *, fails: bool) -> None:
        gate = self.gates.tool[run_id]
        if fails:
            gate.set_exception(ValueError("broken"))
        else:
            gate.set_result("done")
        await self.settle()

    # --- what happens to the process ---

    @rule()
    def crash(self) -> None:
        self.do(self._replace(gracefully=False))

    @rule()
    def deploy(self) -> None:
        self.do(self._replace(gracefully=True))

    async def _replace(self, *, gracefully: bool) -> None:
        resting = self.open_runs("awaiting_input")
        doubtful = [run_id for run_id in self.gates.tool if await self.database.read(has_started_once, run_id)]
        await self.end_process(gracefully=gracefully)
        await self.begin_process()
        assert all(self.clients[run_id].state == "awaiting_input" for run_id in resting)
        # Nobody knows whether it was done: a person is asked, the tool is not run again (P3).
        assert all(run_id not in self.gates.tool for run_id in doubtful)

    # --- what always holds ---

    @invariant()
    def one_writer_per_conversation(self) -> None:
        for conversation in self.conversations:
            active = [run for run in self.open_runs(*ACTIVE) if self.clients[run].conversation == conversation]
            assert len(active) <= 1
            queued = [run for run in self.open_runs("queued") if self.clients[run].conversation == conversation]
            assert active or not queued, "a message waits for nobody"

    @invariant()
    def logs_only_grow_and_end_once(self) -> None:
        for run_id, client in self.clients.items():
            log = self.do(self.database.read(whole_log, run_id))
            places = [event.place for event in log]
            assert places == sorted(set(places))
            before = facts(self.logs.get(run_id, []))
            assert facts(log)[: len(before)] == before
            self.logs[run_id] = log
            ends = [event.type for event in log if event.final]
            assert ends == ([f"run.{client.state}"] if client.state in TERMINAL else [])

    def teardown(self) -> None:
        try:
            self.do(self._end())
        finally:
            self.do(self.database.close())
            self.runner.close()

    async def _end(self) -> None:
        """Everything that was accepted reaches an end (P1), every stream is whole (P4), every history works (P7)."""
        for _ in range(MOST_ROUNDS):
            if not self.open_runs("queued", "running", "awaiting_input"):
                break
            await self.reaper.once()  # suspects are taken up one at a time
            await self.settle()
            for run_id in list(self.gates.model):
                await self._model_answers(run_id, "text")
            for run_id in list(self.gates.tool):
                await self._tool_ends(run_id, fails=False)
            for run_id in self.open_runs("awaiting_input"):
                await self._decide(run_id, approve=False)
        else:
            raise AssertionError(f"never ended: {await self.database.read(states_of)}, gates {self.gates}")
        for run_id, client in self.clients.items():
            assert client.following is not None
            async with asyncio.timeout(HANG_SECONDS):
                await client.following
            log = await self.database.read(whole_log, run_id)
            places = [event.place for event in client.seen]
            assert places == sorted(set(places))
            assert facts(client.seen) == facts(log)
            if client.state == "completed" and client.streams:
                check_events(client.seen)
        for conversation in self.conversations:
            await self._send(conversation, "reject")
            for run_id in list(self.gates.model):
                await self._model_answers(run_id, "text")
            check_whole(assemble(await self.database.read(all_messages, conversation)))
        await self.end_process(gracefully=True)


def forget_waits(connection: Connection) -> None:
    """As if the process had been away for long: suspects may be tried again at once."""
    connection.execute(update(runs).values(retry_at=None))


def reachable(state: str) -> set[str]:
    """The states that may follow at some later time."""
    found: set[str] = set()
    todo = [state]
    while todo:
        for following in NEXT[todo.pop()]:
            if following not in found:
                found.add(following)
                todo.append(following)
    return found


def facts(events: list[RunEvent]) -> list[tuple[Any, str, Any]]:
    """Events that state what is recorded: a dead process may have shown others that never reached the log."""
    kinds = ("run.", "message", "usage", "tool.finished", "approval.")
    return [(event.place, event.type, event.data) for event in events if event.type.startswith(kinds)]


def states_of(connection: Connection) -> dict[str, str]:
    return {row.id: row.state for row in connection.execute(select(runs.c.id, runs.c.state))}


def waiting_calls(connection: Connection, run_id: str) -> list[str]:
    found = select(steps.c.call_id).where(steps.c.run_id == run_id, steps.c.state == "waiting").order_by(steps.c.number)
    return [str(call_id) for call_id in connection.execute(found).scalars()]


def has_started_once(connection: Connection, run_id: str) -> bool:
    found = select(steps.c.number).where(steps.c.run_id == run_id, steps.c.state == "started", steps.c.effect == "once")
    return connection.execute(found).first() is not None


def whole_log(connection: Connection, run_id: str) -> list[RunEvent]:
    return from_rows(repository.read_events(connection, run_id, after=START, limit=10_000), START)


def all_messages(connection: Connection, conversation: str) -> list[Any]:
    return conversation_rows.load_history(connection, conversation, before_turn=1_000, most=10_000)[0]


def test_any_life_of_runs(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Between two steps of the machine the event loop stands still, and with it a transaction that is going on.
    monkeypatch.setitem(postgres._SESSION, "idle_in_transaction_session_timeout", "60s")
    run_state_machine_as_test(
        lambda: LifeOfRuns(database_url),
        settings=settings(
            max_examples=12,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
