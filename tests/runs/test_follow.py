"""Streams of runs that do not execute here, or wait: what they cost, and that they are never left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from structlog.testing import capture_logs
from tests.support.node import Node
from tests.support.watching import WatchedDatabase, until

from pilothouse.db import Database
from pilothouse.engine.supervisor import Supervisor
from pilothouse.errors import NotFound, Unavailable
from pilothouse.identity.principal import Principal, local_principal
from pilothouse.runs import repository
from pilothouse.runs.events import START, EventRow, RunEvent
from pilothouse.runs.log_watcher import AllTold, LogWatcher
from pilothouse.runs.wakeups import NoWakeups
from pilothouse.tools import tool

ME = local_principal()
OTHER_OWNER = Principal(ME.tenant, "somebody else", frozenset({"*"}), "jwt")
OTHER_TENANT = Principal("elsewhere", ME.subject, frozenset({"*"}), "jwt")


class Gate:
    """Where the tool `hold` waits."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()


def agent(gate: Gate | None = None) -> Agent[Any, Any]:
    """Makes the calls that its message names (`pay` asks a person first), then says "done"."""
    gate = gate or Gate()

    @tool(effect="once", approval=True)
    async def pay() -> str:
        return "paid"

    @tool(effect="pure")
    async def hold() -> str:
        gate.entered.set()
        await gate.open.wait()
        return "held"

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        if any(isinstance(part, ToolReturnPart) for message in messages for part in message.parts):
            return ModelResponse(parts=[TextPart("done")])
        text = str(messages[0].parts[0].content)  # pyright: ignore[reportAttributeAccessIssue]
        return ModelResponse(parts=[ToolCallPart(name, {}, tool_call_id=name) for name in text.split()])

    return Agent(FunctionModel(answer), name="worker", tools=[pay, hold])


@asynccontextmanager
async def watching(node: Node, count: int, run_id: str, *, after: Any = START) -> AsyncIterator[list[list[RunEvent]]]:
    """So many streams of a run, which have shown what there is and wait."""
    seen: list[list[RunEvent]] = [[] for _ in range(count)]
    tasks = [asyncio.create_task(node.watch(run_id, one, after)) for one in seen]
    try:
        await until(lambda: len(node.live.watches.waiting()) == count)
        yield seen
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def waiting_run(node: Node) -> str:
    accepted = await node.start("pay")
    await node.runs.wait(ME, accepted)
    return accepted.run_id


def facts(events: list[RunEvent]) -> list[tuple[tuple[int, int], str]]:
    return [(event.place, event.type) for event in events]


async def test_streams_that_wait_read_nothing_and_all_get_on_when_their_run_does(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(watched, agent()) as node:
        run_id = await waiting_run(node)
        async with watching(node, 200, run_id) as seen:
            before = watched.reads.total()
            await asyncio.sleep(1.2)  # not to wait for anything: this is how long nothing may happen
            assert watched.reads.total() == before
            await node.runs.answer(ME, run_id, call_id="pay", approve=True)
        assert {tuple(facts(events)) for events in seen} == {tuple(facts(seen[0]))}
        assert seen[0][-1].type == "run.completed"


async def test_one_query_serves_all_streams_of_a_process_that_is_not_told(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(database, agent()) as other, Node(watched, agent()) as node:
        run_ids = [await waiting_run(other) for _ in range(5)]
        watcher = LogWatcher(watched, node.live.watches, NoWakeups())
        tasks = [
            asyncio.create_task(node.watch(run_id, seen := list[RunEvent]())) or seen
            for run_id in run_ids
            for _ in range(40)
        ]
        await until(lambda: len(node.live.watches.waiting()) == 200)
        watched.reads.clear()
        assert await watcher.once() == 0
        assert watched.reads == {"changed": 1}
        for run_id in run_ids:
            await other.runs.cancel(ME, run_id)
        assert await watcher.once() == 200
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        assert watched.reads["read_pages"] <= 10
        assert len(node.live.watches) == 0


async def test_a_change_between_the_look_and_the_wait_is_not_missed(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(database, agent()) as other, Node(watched, agent()) as node:
        run_id = await waiting_run(other)
        after = (await node.follower.page(run_id, START, 100))[-1].place
        gate = watched.hold("read_pages")
        seen: list[RunEvent] = []
        task = asyncio.create_task(node.watch(run_id, seen, after))
        await until(lambda: watched.at_gate["read_pages"])  # it has looked, and not heard yet what it saw
        await other.runs.cancel(ME, run_id)
        node.live.look(run_id)
        gate.set()
        async with asyncio.timeout(60):
            await task
        assert seen[-1].type == "run.cancelled"


async def test_a_run_that_is_gone_ends_its_streams(database: Database) -> None:
    async with Node(database, agent()) as other, Node(database, agent()) as node:
        run_id = await waiting_run(other)
        conversation_id = (await other.runs.get(ME, run_id)).conversation_id
        async with watching(node, 3, run_id) as seen:
            await other.conversations.delete(ME, conversation_id)
            assert await LogWatcher(database, node.live.watches, NoWakeups()).once() == 3
        assert seen[0][-1].type == "approval.requested"


async def test_cancelling_a_run_in_the_queue_ends_its_streams_without_a_look(database: Database) -> None:
    gate = Gate()
    async with Node(database, agent(gate)) as node:
        first = await node.start("hold")
        queued = await node.start("hold", conversation_id=first.conversation_id, on_busy="queue")
        async with watching(node, 3, queued.run_id) as seen:
            await node.runs.cancel(ME, queued.run_id)
        assert [event.type for event in seen[0]] == ["run.queued", "run.cancelled"]
        gate.open.set()


async def test_a_stream_of_a_run_in_the_queue_goes_on_when_it_begins_here(database: Database) -> None:
    gate = Gate()
    async with Node(database, agent(gate)) as node:
        first = await node.start("hold")
        queued = await node.start("hold", conversation_id=first.conversation_id, on_busy="queue")
        async with watching(node, 3, queued.run_id) as seen:
            gate.open.set()
        assert seen[0][-1].type == "run.completed"
        assert [event.place for event in seen[0]] == sorted({event.place for event in seen[0]})


async def test_closing_ends_streams_that_wait(database: Database) -> None:
    async with Node(database, agent()) as node:
        run_id = await waiting_run(node)
        async with watching(node, 100, run_id) as seen:
            node.follower.close()
        assert seen[0][-1].type == "approval.requested"
        async with asyncio.timeout(60):
            assert await node.follower.until(run_id, ()) == "awaiting_input"


async def test_a_stream_that_knows_a_newer_attempt_does_not_wait_for_the_older_one_here(database: Database) -> None:
    """This process has lost the run to another one and does not know it yet."""
    gate = Gate()
    async with Node(database, agent(gate)) as stale:
        accepted = await stale.start("hold")
        await gate.entered.wait()
        rows = [EventRow(2, 10, "run.started", "{}"), EventRow(2, 11, "run.cancelled", '{"reason": "x"}')]

        async def watch() -> list[str]:
            seen: list[RunEvent] = []
            await stale.watch(accepted.run_id, seen, (2, 10))
            return [event.type for event in seen]

        await database.write(repository.insert_events, accepted.run_id, rows, 1)
        async with asyncio.timeout(60):
            assert await watch() == ["run.cancelled"]
        gate.open.set()


async def test_waiting_for_a_run_elsewhere_ends_though_it_comes_to_rest_without_an_event(database: Database) -> None:
    gate = Gate()
    async with Node(database, agent(gate)) as other, Node(database, agent()) as node:
        accepted = await other.start("pay hold")
        await gate.entered.wait()
        copy = await node.runs.start(node.new("x", conversation_id=accepted.conversation_id, on_busy="queue"))
        copy.run_id, copy.task = accepted.run_id, None
        waiting = asyncio.create_task(node.runs.wait(ME, copy))
        await until(node.live.watches.waiting)
        gate.open.set()
        await other.runs.wait(ME, accepted)
        assert await LogWatcher(database, node.live.watches, NoWakeups()).once() == 1
        async with asyncio.timeout(60):
            assert await waiting is None


@pytest.mark.parametrize("who", [OTHER_OWNER, OTHER_TENANT])
async def test_nobody_follows_or_awaits_what_is_someone_elses_though_it_executes_here(
    database: Database, who: Principal
) -> None:
    gate = Gate()
    async with Node(database, agent(gate)) as node:
        accepted = await node.start("hold")
        await gate.entered.wait()
        with pytest.raises(NotFound):
            async for _ in node.runs.follow(who, accepted.run_id, START):
                pass
        gate.open.set()
        await node.runs.wait(ME, accepted)


async def test_following_ones_own_run_that_executes_here_reads_nothing(database: Database) -> None:
    gate = Gate()
    watched = WatchedDatabase(database)
    async with Node(watched, agent(gate)) as node:
        accepted = await node.start("hold")
        await gate.entered.wait()
        watched.reads.clear()
        batches = node.runs.follow(ME, accepted.run_id, START)
        assert (await anext(batches))[0].type == "run.queued"
        assert watched.reads.total() == 0
        gate.open.set()
        assert [batch async for batch in batches][-1][-1].type == "run.completed"


async def test_streams_survive_a_database_that_is_away_while_they_wait(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(watched, agent()) as node:
        run_id = await waiting_run(node)
        watcher = LogWatcher(watched, node.live.watches, NoWakeups())
        async with watching(node, 3, run_id) as seen:
            watched.away = True
            with pytest.raises(Unavailable):
                await watcher.once()
            watched.away = False
            assert await watcher.once() == 0
            await node.runs.cancel(ME, run_id)
        assert seen[0][-1].type == "run.cancelled"


class Turned:
    """A clock one turns by hand, and wake-ups that say they are well."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.healthy = True

    def __call__(self) -> float:
        return self.now


async def test_a_wakeup_that_was_missed_is_noticed_and_others_are_not_relied_on_for_a_while(
    database: Database,
) -> None:
    clock = Turned()
    supervisor = Supervisor()
    async with Node(database, agent()) as other, Node(database, agent()) as node:
        first, second = await waiting_run(other), await waiting_run(other)
        watcher = LogWatcher(
            database, node.live.watches, clock, poll_seconds=0.01, grace_seconds=0.01, safety_seconds=12, clock=clock
        )
        watcher.start(supervisor)
        async with watching(node, 2, first):
            clock.now += 20
            await until(lambda: watcher.looks == 1)
            await other.runs.cancel(ME, first)  # and nobody says so here
            with capture_logs() as logs:
                clock.now += 20
                await until(lambda: not watcher.trusting)
            assert [line["streams"] for line in logs if line["event"] == "wakeups_missed"] == [2]
        async with watching(node, 2, second):
            await other.runs.cancel(ME, second)  # found without the clock having been turned
        clock.now += 61
        assert watcher.trusting
        await supervisor.close()


async def test_a_change_that_is_told_in_time_is_not_counted_as_missed(database: Database) -> None:
    clock = Turned()
    watched = WatchedDatabase(database)
    supervisor = Supervisor()
    async with Node(database, agent()) as other, Node(watched, agent()) as node:
        run_id = await waiting_run(other)
        async with watching(node, 2, run_id):
            gate = watched.hold("changed")
            watcher = LogWatcher(watched, node.live.watches, clock, poll_seconds=0.01, grace_seconds=0.05, clock=clock)
            await other.runs.cancel(ME, run_id)
            watcher.start(supervisor)
            await until(lambda: watched.at_gate["changed"])
            node.live.look(run_id)
            gate.set()
        clock.now += 100
        await until(lambda: watcher.looks >= 1)
        assert watcher.trusting
        await supervisor.close()


async def test_without_wakeups_streams_get_on_by_looking(database: Database) -> None:
    supervisor = Supervisor()
    async with Node(database, agent()) as other, Node(database, agent()) as node:
        LogWatcher(database, node.live.watches, NoWakeups(), poll_seconds=0.01).start(supervisor)
        run_id = await waiting_run(other)
        async with watching(node, 20, run_id) as seen:
            await other.runs.answer(ME, run_id, call_id="pay", approve=True)
        assert seen[0][-1].type == "run.completed"
        assert {tuple(facts(events)) for events in seen} == {tuple(facts(seen[0]))}
        await supervisor.close()


async def test_a_process_that_is_alone_trusts_itself() -> None:
    assert AllTold().healthy
