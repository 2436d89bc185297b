"""What the reaper finds and continues."""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import create_async_engine
from tests.support.logs import logged_by
from tests.support.node import CutDatabase, Node
from tests.support.server import running

from pilothouse.conversations.tables import messages
from pilothouse.errors import Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.kit.clock import now_ms
from pilothouse.runs import execute
from pilothouse.runs.admit import NewRun, admit
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.resume import take_over
from pilothouse.runs.tables import runs
from pilothouse.testing.provider import Script


def principal() -> Principal:
    return Principal("acme", "ada", frozenset({"*"}), "jwt")


async def admitted(server, **values) -> str:
    """A run that was accepted and never begun, with some of its columns changed."""
    new = NewRun(principal=principal(), agent=server.services.executor._agents.get("helper"), message="Hello?")
    run = await admit(server.database, new, owner=server.services.executor.owner, queue_length=1)
    await server.database.write(
        lambda connection: connection.execute(update(runs).where(runs.c.id == run.run_id).values(**values)) and None
    )
    return run.run_id


async def ended(server, run_id: str):
    async for batch in server.services.runs.follow(principal(), run_id, (0, 0)):
        last = batch[-1]
    return last


async def test_a_run_that_was_accepted_here_but_never_begun_is_begun(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, started_at=now_ms() - 20_000)
        await server.services.reaper.once()
        assert (await ended(server, run_id)).data["text"] == "Hello."


async def test_a_run_of_a_dead_process_is_continued(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead")
        await server.services.reaper.once()
        assert (await ended(server, run_id)).data["text"] == "Hello."
        row = await server.services.runs.get(principal(), run_id)
        assert (row.attempt, row.crashes) == (2, 0), "what it recorded clears it"


async def test_a_run_that_was_handed_over_counts_no_crash(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner=None)
        await server.services.reaper.once()
        await ended(server, run_id)
        assert (await server.services.runs.get(principal(), run_id)).crashes == 0


async def test_an_orphan_that_cannot_be_loaded_is_ended_and_the_others_are_continued(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        broken = await admitted(server, lease_owner="node_dead")
        sound = await admitted(server, lease_owner="node_dead")
        await server.database.write(
            lambda connection: (
                connection.execute(update(messages).where(messages.c.run_id == broken).values(payload="{not json"))
                and None
            )
        )
        assert await server.services.reaper.once() == 1
        event = await ended(server, broken)
        assert (event.type, event.data["error"]["code"]) == ("run.failed", "internal_error")
        assert (await ended(server, sound)).data["text"] == "Hello."


async def test_an_orphan_that_somebody_holds_locked_is_left_and_the_others_are_continued(postgres_url):
    """A host that lost power sends no FIN: its sessions keep their row locks until the server ends them."""
    async with running(postgres_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        locked = await admitted(server, lease_owner="node_dead")
        free = await admitted(server, lease_owner="node_dead")
        engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.begin() as held:
            await held.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": locked})
            async with asyncio.timeout(30):
                assert await server.services.reaper.once() == 1
                assert (await ended(server, free)).data["text"] == "Hello."
        await engine.dispose()
        assert await server.services.reaper.once() == 1
        assert (await ended(server, locked)).data["text"] == "Hello."


async def test_runs_of_agents_that_are_not_here_are_left_for_who_has_them(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead", agent="elsewhere")
        assert await server.services.reaper.once() == 0
        assert (await server.services.runs.get(principal(), run_id)).state == "running"


async def test_the_next_in_line_is_left_to_the_reaper_while_the_database_is_away(database):
    gate = asyncio.Event()

    async def answer(messages, info):
        await gate.wait()
        return ModelResponse(parts=[TextPart("Hello.")])

    away = AwayForTakeovers(database)
    async with Node(away, Agent(FunctionModel(answer), name="helper")) as node:
        first = await node.start("one")
        second = await node.start("two", conversation_id=first.conversation_id, on_busy="queue")
        gate.set()
        with logged_by(execute) as logs:
            await first.task
            await asyncio.gather(*node.executor._next)
        assert [line["run_id"] for line in logs if line["event"] == "run_left_to_reaper"] == [second.run_id]
        away.back = True
        assert await Reaper(away, node.executor, alone=True, interval_seconds=60).once() == 1
        assert (await node.executor.task(second.run_id)).state == "completed"


class AwayForTakeovers(CutDatabase):
    """A database that goes away whenever a run is to be taken over, until it is back."""

    back = False

    async def write(self, unit, *args, **kwargs):
        if unit is take_over and not self.back:
            raise Unavailable("The database is away.")
        return await super().write(unit, *args, **kwargs)
