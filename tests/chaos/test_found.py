"""What the harness has found, each as a small test of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.support.node import Node
from tests.support.server import running

from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.identity.principal import local_principal
from pilothouse.runs import ownership_repository
from pilothouse.runs.active import ActiveRun
from pilothouse.runs.admit import NewRun
from pilothouse.runs.chat_endpoints import event_bytes
from pilothouse.runs.events import START
from pilothouse.runs.reaper import Reaper
from pilothouse.testing.provider import Script
from pilothouse.tools import tool

ME = local_principal()


def payer(*, approval: bool) -> Agent[Any, Any]:
    @tool(effect="once", approval=approval)
    async def pay() -> str:
        return "paid"

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        if any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(parts=[ToolCallPart("pay", {}, tool_call_id="call_1")])

    return Agent(FunctionModel(answer), name="payer", tools=[pay])


def reaper_of(node: Node) -> Reaper:
    return Reaper(node.database, node.executor, alone=True, interval_seconds=60)


async def test_an_answer_is_acted_on_although_the_node_that_took_it_is_stopping(database: Database) -> None:
    async with Node(database, payer(approval=True)) as leaving, Node(database, payer(approval=True)) as staying:
        accepted = await leaving.start("pay")
        assert (await leaving.runs.wait(ME, accepted)) is not None
        assert await reaper_of(staying).once() == 0
        leaving.executor.begin_shutdown()
        answered = await leaving.runs.answer(ME, accepted.run_id, call_id="call_1", approve=True)
        assert answered.state == "awaiting_input"
        assert await reaper_of(staying).once() == 1
        task = staying.executor.task(accepted.run_id)
        assert task is not None
        await task
        assert (await staying.runs.get(ME, accepted.run_id)).state == "completed"


class Forgetful:
    """A database that is away right after its n-th write was made: the answer is lost."""

    def __init__(self, inner: Database, *, at: int = 0, unit: str = "") -> None:
        self._inner = inner
        self._at = at
        self._unit = unit
        self.writes = 0
        self.forgot = asyncio.Event()
        self.away = False

    @property
    def dialect(self) -> str:
        return self._inner.dialect

    async def read(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        if self.away:
            raise Unavailable("The database can't be reached right now.", code="database_unavailable")
        return await self._inner.read(unit, *args, **kwargs)

    async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        result = await self._inner.write(unit, *args, **kwargs)
        if unit.__name__ == self._unit:
            self.writes += 1
            if self.writes == self._at:
                self.forgot.set()
                raise Unavailable("The database can't be reached right now.", code="database_unavailable")
        return result

    async def close(self) -> None:
        await self._inner.close()


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_commit_whose_answer_was_lost_is_not_made_twice(database: Database, at: int) -> None:
    forgetful = Forgetful(database, at=at, unit="_write_batch")
    async with Node(forgetful, payer(approval=False)) as node:
        accepted = await node.start("pay")
        await node.runs.wait(ME, accepted)
        assert forgetful.forgot.is_set()
        row = await node.runs.get(ME, accepted.run_id)
        assert (row.state, row.error) == ("completed", None)
        events = [event async for batch in node.follower.follow(accepted.run_id, START) for event in batch]
        assert [event.number for event in events] == sorted({event.number for event in events})
        assert [event.type for event in events].count("tool.finished") == 1


async def test_deltas_whose_write_was_not_acknowledged_are_in_the_log_once(database: Database) -> None:
    forgetful = Forgetful(database, at=1, unit="insert_deltas")
    words = [f"word{number} " for number in range(4)]

    async def speak(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[str]:
        for word in words[:2]:
            yield word
        await forgetful.forgot.wait()
        for word in words[2:]:
            yield word

    async with Node(forgetful, Agent(FunctionModel(stream_function=speak), name="speaker")) as node:
        accepted = await node.start("speak", stream=True)
        await node.runs.wait(ME, accepted)
        assert (await node.runs.get(ME, accepted.run_id)).state == "completed"
        events = await node.follower.page(accepted.run_id, START, 100)
        texts = [event.data["text"] for event in events if event.type == "text.delta"]
        assert "".join(texts) == "".join(words)


async def test_a_stream_ends_quietly_when_the_database_goes_away_and_goes_on_when_it_is_back(
    database: Database,
) -> None:
    fickle = Forgetful(database)
    async with Node(fickle, payer(approval=True)) as node:
        accepted = await node.start("pay")
        await node.runs.wait(ME, accepted)
        seen: list[bytes] = []
        async for chunk in event_bytes(node.runs, ME, accepted.run_id, START):
            seen.append(chunk)
            fickle.away = True
        assert b"approval.requested" in seen[-1]
        fickle.away = False
        last = (await node.follower.page(accepted.run_id, START, 100))[-1].place
        rest = event_bytes(node.runs, ME, accepted.run_id, last)
        await node.runs.cancel(ME, accepted.run_id)
        assert b"run.cancelled" in b"".join([chunk async for chunk in rest])


async def test_a_cancel_at_a_stopping_node_is_said_to_be_pending_at_once_and_done_by_another(
    database: Database,
) -> None:
    async with Node(database, payer(approval=True)) as leaving, Node(database, payer(approval=True)) as staying:
        accepted = await leaving.start("pay")
        await leaving.runs.wait(ME, accepted)
        leaving.executor.begin_shutdown()
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="has not stopped yet"):
                await leaving.runs.cancel(ME, accepted.run_id)
        assert await reaper_of(staying).once() == 1
        task = staying.executor.task(accepted.run_id)
        assert task is not None
        await task
        assert (await staying.runs.get(ME, accepted.run_id)).state == "cancelled"


class Paused:
    """The standing of a process that is paused at a chosen instant, for so long that another one takes its runs."""

    def __init__(self, database: Database, run_id: list[str]) -> None:
        self._database = database
        self._run_id = run_id
        self.owner = "node_paused"
        self.generation = 0
        self.lapsed = False

    def held(self) -> bool:
        return not self.lapsed

    async def regained(self) -> None:
        for run_id in self._run_id:
            await self._database.write(
                ownership_repository.take_over, run_id, owner="node_other", states=("running",), if_attempt=1
            )
        self.lapsed = False
        self.generation += 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_process_paused_on_the_way_to_the_socket_sends_nothing_when_it_goes_on(
    database_url: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database_url, Script(turns=["Hello."]), agents=[Agent(name="helper")]) as server:
        run_ids: list[str] = []
        paused = Paused(server.database, run_ids)
        executor = server.services.executor
        executor._ownership = executor._loader._ownership = paused
        begin = ActiveRun.begin_model_step

        def begin_and_pause(run: ActiveRun, name: str) -> None:
            begin(run, name)
            run_ids.append(run.run_id)
            paused.lapsed = True

        monkeypatch.setattr(ActiveRun, "begin_model_step", begin_and_pause)
        new = NewRun(principal=ME, agent=executor._agents.get("helper"), message="Hi", stream=stream)
        accepted = await server.services.runs.start(new)
        assert accepted.task is not None
        assert await accepted.task is None
        assert server.provider.requests == []
        row = await server.services.runs.get(ME, accepted.run_id)
        assert (row.state, row.lease_owner, row.attempt) == ("running", "node_other", 2)


async def test_a_process_paused_on_the_way_to_a_tool_does_not_begin_it(database: Database) -> None:
    called: list[str] = []

    @tool(effect="pure")
    async def look() -> str:
        called.append("look")
        return "seen"

    def answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[ToolCallPart("look", {}, tool_call_id="call_1")])

    run_ids: list[str] = []
    paused = Paused(database, run_ids)

    class Pausing(Forgetful):
        """Pauses the process while it waits for its intent to be recorded."""

        async def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
            result = await self._inner.write(unit, *args, **kwargs)
            if unit.__name__ == "_write_batch" and args[1].new_steps:
                run_ids.append(args[0].run_id)
                paused.lapsed = True
            return result

    async with Node(Pausing(database), Agent(FunctionModel(answer), name="looker", tools=[look])) as node:
        node.executor._ownership = node.executor._loader._ownership = paused
        accepted = await node.start("look")
        assert accepted.task is not None
        assert await accepted.task is None
        assert called == []
