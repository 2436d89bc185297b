"""What the reaper finds and continues."""

import asyncio

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from sqlalchemy import update
from structlog.testing import capture_logs
from tests.support.node import CutDatabase, Node
from tests.support.server import running

from pilothouse.errors import Unavailable
from pilothouse.identity.principal import Principal
from pilothouse.runs import repository
from pilothouse.runs.admit import NewRun, admit
from pilothouse.runs.events import EventRow
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
        run_id = await admitted(server, started_at=1)
        await server.services.reaper.once()
        assert (await ended(server, run_id)).data["text"] == "Hello."


async def test_a_run_of_a_dead_process_is_continued(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead")
        await server.services.reaper.once()
        assert (await ended(server, run_id)).data["text"] == "Hello."
        row = await server.services.runs.get(principal(), run_id)
        assert (row.attempt, row.crashes) == (2, 1)


async def test_a_run_that_was_handed_over_counts_no_crash(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner=None)
        await server.services.reaper.once()
        await ended(server, run_id)
        assert (await server.services.runs.get(principal(), run_id)).crashes == 0


async def test_the_third_crash_parks_a_run_with_its_reason_and_the_conversation_goes_on(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead", crashes=2, attempt=3)
        await server.services.reaper.once()
        event = await ended(server, run_id)
        assert (event.type, event.data["error"]["code"]) == ("run.failed", "poisoned")
        assert len(server.provider.requests) == 0
        row = await server.services.runs.get(principal(), run_id)
        new = NewRun(
            principal=principal(),
            agent=server.services.executor._agents.get("helper"),
            message="Still there?",
            conversation_id=row.conversation_id,
        )
        accepted = await server.services.runs.start(new)
        assert (await server.services.runs.wait(principal(), accepted)).text == "Hello."


@pytest.mark.parametrize(("progress_in", "crashes", "end"), [(5, 5, "completed"), (4, 5, "failed"), (9, 9, "failed")])
async def test_crashes_count_against_a_run_while_it_does_not_get_on(database_url, progress_in, crashes, end):
    """Kills from outside hit innocent runs too: who has recorded something since is not what ends processes."""
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead", crashes=crashes, attempt=crashes + 1)
        rows = [EventRow(progress_in, 3, "tool.finished", "{}")]
        await server.database.write(repository.insert_events, run_id, rows, 1)
        await server.services.reaper.once()
        assert (await ended(server, run_id)).type == f"run.{end}"


async def test_runs_of_agents_that_are_not_here_are_left_for_who_has_them(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_id = await admitted(server, lease_owner="node_dead", agent="elsewhere")
        assert await server.services.reaper.once() == 0
        assert (await server.services.runs.get(principal(), run_id)).state == "running"


async def test_a_suspect_that_is_only_to_be_stopped_need_not_wait_for_its_turn(database_url):
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        server.services.executor._suspects.add("run_of_somebody_else")
        waiting = await admitted(server, lease_owner="node_dead", crashes=2, attempt=3)
        stopped = await admitted(server, lease_owner="node_dead", crashes=2, attempt=3, cancel_requested_at=1)
        assert await server.services.reaper.once() == 1
        assert (await ended(server, stopped)).type == "run.cancelled"
        assert (await server.services.runs.get(principal(), waiting)).state == "running"
        server.services.executor._suspects.clear()
        await server.services.reaper.once()
        assert (await ended(server, waiting)).type == "run.failed"


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
        with capture_logs() as logs:
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
