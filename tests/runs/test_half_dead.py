"""Runs on a database that refuses for a while, on a process that can't execute, and under one limit of time."""

import asyncio

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from sqlalchemy import select, text, update
from tests.support.node import Node

from pilothouse.db import open_database
from pilothouse.engine.leases import Lease
from pilothouse.engine.supervisor import Supervisor
from pilothouse.engine.tables import leases
from pilothouse.errors import Unavailable
from pilothouse.identity.principal import local_principal
from pilothouse.kit.clock import now_ms
from pilothouse.runs import repository
from pilothouse.runs.admit import admit
from pilothouse.runs.errors import Fenced
from pilothouse.runs.events import START, from_rows
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.tables import runs
from pilothouse.settings import Settings
from pilothouse.tools import tool

ME = local_principal()
HANG_SECONDS = 60
REFUSALS = ["40001", "40P01", "55P03", "57014", "25006", "25P03", "53100", "58030", "XX000"]
FAIL_FIRST = [
    "CREATE SEQUENCE tries",
    (
        "CREATE FUNCTION fail_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.type = 'run.completed' AND nextval('tries') <= 3 THEN "
        "RAISE EXCEPTION 'on purpose' USING ERRCODE = 'SQLSTATE'; END IF; RETURN NEW; END $$"
    ),
    "CREATE TRIGGER fail_first BEFORE INSERT ON run_events FOR EACH ROW EXECUTE FUNCTION fail_first()",
]


async def hello(_messages, _info):
    return ModelResponse(parts=[TextPart("Hello.")])


def agent(answer=hello, **values):
    return Agent(FunctionModel(answer), name="helper", **values)


async def row_of(database, run_id):
    return await database.read(repository.get_run_for_executor, run_id)


async def log_of(database, run_id):
    return from_rows(await database.read(repository.read_events, run_id, after=START, limit=1_000), START)


@pytest.mark.parametrize("sqlstate", REFUSALS)
async def test_a_database_that_refuses_the_end_of_a_run_for_a_while_does_not_fail_it(postgres_url, sqlstate):
    database = await open_database(postgres_url)

    def prepare(connection):
        for statement in FAIL_FIRST:
            connection.execute(text(statement.replace("SQLSTATE", sqlstate)))

    await database.maintain(prepare)
    async with Node(database, agent()) as node:
        async with asyncio.timeout(HANG_SECONDS):
            outcome = await node.finish("Hello?")
        assert (outcome.state, outcome.text) == ("completed", "Hello.")
    await database.close()


async def test_a_process_that_lost_its_lease_refuses_runs_at_once(database):
    now = [0.0]
    supervisor = Supervisor()
    lease = Lease(database, supervisor, heartbeat_seconds=1_000, expiry_seconds=10, clock=lambda: now[0])
    await lease.start()
    async with Node(database, agent(), ownership=lease) as node:
        assert (await node.finish("Hello?")).text == "Hello."
        now[0] = 11.0
        with pytest.raises(Unavailable) as caught:
            await node.start("Hello?")
        assert (caught.value.code, caught.value.headers) == ("database_unavailable", {"Retry-After": "1"})
        assert await node.executor.resume("run_any") is None
        now[0] = 0.0
    await supervisor.close()


async def test_a_runs_limit_counts_from_its_first_start(database):
    """Seen before: each attempt had the whole limit again, so a run under kills went on for ever."""
    async with Node(database, agent(), timeout_seconds=10) as node:
        run = await admit(database, node.new("Hello?"), owner="node_dead", queue_length=1)
        moment = now_ms()

        def long_ago(connection):
            connection.execute(update(runs).values(started_at=moment - 11_000))
            connection.execute(
                leases.insert().values(owner="node_dead", host="", pid=1, started_at=1, expires_at=moment - 50)
            )

        await database.write(long_ago)
        outcome = await node.resume(run.run_id)
        assert outcome.error["code"] == "run_timeout"


@pytest.mark.parametrize("known", [True, False], ids=["the last sign of life", "the last event"])
async def test_time_in_which_no_process_was_there_does_not_count(database, known):
    async with Node(database, agent(), timeout_seconds=10) as node:
        run = await admit(database, node.new("Hello?"), owner="node_dead", queue_length=1)
        died = now_ms() - 3_600_000

        def long_ago(connection):
            connection.execute(update(runs).values(started_at=died - 5_000))
            connection.execute(text("UPDATE run_events SET created_at = :died"), {"died": died})
            if known:
                connection.execute(
                    leases.insert().values(owner="node_dead", host="", pid=1, started_at=1, expires_at=died)
                )

        await database.write(long_ago)
        assert (await node.resume(run.run_id)).text == "Hello."
        assert 3_590_000 < (await row_of(database, run.run_id)).paused_ms <= 3_610_000


async def test_time_in_which_a_run_waits_for_a_person_does_not_count(database):
    @tool(effect="once", approval=True)
    async def pay() -> str:
        return "paid"

    async def ask(messages, _info):
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart("pay", {}, tool_call_id="call_1")])
        return ModelResponse(parts=[TextPart("Done.")])

    async with Node(database, agent(ask), tools=[pay], timeout_seconds=10) as node:
        outcome = await node.finish("Pay.")
        assert outcome.state == "awaiting_input"
        run_id = await database.read(lambda c: c.execute(select(runs.c.id)).scalar_one())

        def an_hour_ago(connection):
            connection.execute(
                update(runs).values(started_at=runs.c.started_at - 3_600_000, paused_at=runs.c.paused_at - 3_599_000)
            )

        await database.write(an_hour_ago)
        accepted = await node.runs.answer(ME, run_id, call_id="call_1", approve=True)
        assert (await accepted.task).text == "Done."
        row = await row_of(database, run_id)
        assert row.paused_at is None
        assert row.paused_ms >= 3_599_000


async def test_another_node_reports_why_a_run_was_stopped(database):
    """Seen before: whoever stopped it said that its caller had cancelled it, though another message interrupted it."""
    async with Node(database, agent()) as node:
        run = await admit(database, node.new("Hello?"), owner="node_dead", queue_length=1)
        await database.write(
            repository.request_cancel, ME.tenant, ME.subject, run.run_id, now=now_ms(), reason="interrupted by run_2"
        )
        await Reaper(database, node.executor, alone=True, interval_seconds=60).once()
        await asyncio.gather(*node.executor._tasks.values())
        [event] = [event for event in await log_of(database, run.run_id) if event.final]
        assert (event.type, event.data["reason"]) == ("run.cancelled", "interrupted by run_2")


async def test_every_callback_of_one_commit_is_called_and_gets_its_own_answer(database):
    """Seen before: the first of two callbacks in one batch was dropped."""
    gate = asyncio.Event()

    async def answer(_messages, _info):
        await gate.wait()
        return ModelResponse(parts=[TextPart("Hello.")])

    async with Node(database, agent(answer)) as node:
        accepted = await node.start("Hello?")
        [run] = node.executor._runs.values()
        first, second, third = await asyncio.gather(
            run.journal.commit(after=lambda _: "one"),
            run.journal.commit(after=lambda _: "two"),
            run.journal.commit(),
        )
        assert (first, second, third) == ("one", "two", None)
        gate.set()
        assert (await accepted.task).text == "Hello."


async def test_after_a_batch_that_was_given_up_nothing_is_written(database, monkeypatch):
    """A later batch would leave a hole in the transcript and in the log."""
    gate = asyncio.Event()

    async def answer(_messages, _info):
        await gate.wait()
        return ModelResponse(parts=[TextPart("Hello.")])

    async with Node(database, agent(answer)) as node:
        accepted = await node.start("Hello?")
        [run] = node.executor._runs.values()
        monkeypatch.setattr("pilothouse.db.patience.GIVE_UP_SECONDS", -1.0)
        with monkeypatch.context() as patch:
            patch.setattr(node.database, "write", refuse)
            run.journal.state_fact("message", step=1, text="lost")
            with pytest.raises(Unavailable):
                await run.journal.commit()
        run.journal.state_fact("message", step=1, text="after it")
        with pytest.raises(Fenced):
            await run.journal.commit()
        gate.set()
        await asyncio.gather(accepted.task, return_exceptions=True)
        assert [event.type for event in await log_of(database, accepted.run_id)] == ["run.queued", "run.started"]


async def refuse(*_args, **_kwargs):
    raise Unavailable("The database is away.")


async def test_streamed_text_whose_write_failed_once_is_written_by_a_later_round(database):
    """Seen in review: followers on other nodes saw a silent stream until the run's next commit."""
    gate = asyncio.Event()

    async def answer(_messages, _info):
        await gate.wait()
        return ModelResponse(parts=[TextPart("Hello.")])

    async with Node(database, agent(answer), settings=Settings(runs={"delta_flush_seconds": 1_000})) as node:
        accepted = await node.start("Hello?", stream=True)
        async with asyncio.timeout(HANG_SECONDS):
            while not node.executor._runs:
                await asyncio.sleep(0)
        [run] = node.executor._runs.values()
        run.text_delta("Hel")
        real, node.deltas._database = node.deltas._database, Refusing()
        with pytest.raises(Unavailable):
            await node.deltas.write_all()
        node.deltas._database = real
        run.text_delta("lo")
        async with asyncio.timeout(HANG_SECONDS):
            while not [e for e in await log_of(database, accepted.run_id) if e.type == "text.delta"]:
                await node.deltas.write_all()
        texts = [e.data["text"] for e in await log_of(database, accepted.run_id) if e.type == "text.delta"]
        assert "".join(texts) == "Hello"
        gate.set()
        assert (await accepted.task).text == "Hello."


class Refusing:
    async def write(self, *_args, **_kwargs):
        raise Unavailable("The database is away.")


async def test_streamed_text_that_no_encoding_knows_does_not_keep_its_run_from_ending(database):
    """A lone surrogate in a delta: the write of streamed text failed, and with it every later one of the run."""

    async def stream(_messages, _info):
        yield "Hel\ud800"
        yield "lo"

    answering = Agent(FunctionModel(stream_function=stream), name="helper")
    async with Node(database, answering, settings=Settings(runs={"delta_flush_seconds": 0.001})) as node:
        accepted = await node.start("Hello?", stream=True)
        assert (await accepted.task).state == "completed"
        texts = [e.data["text"] for e in await log_of(database, accepted.run_id) if e.type == "text.delta"]
        assert "".join(texts) == "Hel\ufffdlo"
