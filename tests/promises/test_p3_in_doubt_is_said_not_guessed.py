"""P3: what may have happened already is not done again on a guess."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.node import Crash, CutDatabase, Node
from tests.support.server import running

from pilothouse.identity.principal import local_principal
from pilothouse.runs.events import RunEvent
from pilothouse.testing.provider import ToolCall
from pilothouse.tools import current_tool_call, tool

ME = local_principal()


class World:
    """Tools that take effect and then, the first time, take the process down."""

    def __init__(self, *, crash: bool = True) -> None:
        self.crash = crash
        self.effects: list[tuple[str, str, int]] = []
        self.told: list[str] = []
        self.asked = 0

    async def act(self, name: str) -> str:
        call = current_tool_call()
        assert call is not None
        self.effects.append((name, call.idempotency_key, call.attempt))
        if self.crash:
            self.crash = False
            raise Crash
        return f"{name} done"

    def agent(self, calls: list[str], **policy: Any) -> Agent[Any, Any]:
        @tool(effect="pure")
        async def look() -> str:
            return await self.act("look")

        @tool(effect="idempotent")
        async def put() -> str:
            return await self.act("put")

        @tool(effect="once", **policy)
        async def pay() -> str:
            return await self.act("pay")

        def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
            self.asked += 1
            results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            if not results:
                return ModelResponse(
                    parts=[ToolCallPart(name, {}, tool_call_id=f"c{i}") for i, name in enumerate(calls)]
                )
            self.told = [part.model_response_str() for part in results]
            return ModelResponse(parts=[TextPart("done")])

        return Agent(FunctionModel(answer), name="actor", tools=[look, put, pay])


async def crashed(database, agent: Agent[Any, Any]) -> str:
    """A run whose process died in the middle of a tool."""
    first = Node(CutDatabase(database), agent)
    accepted = await first.start("go")
    assert accepted.task is not None
    await asyncio.wait([accepted.task])
    assert isinstance(accepted.task.exception(), Crash)
    await first.abandon()
    return accepted.run_id


async def steps(node: Node, run_id: str) -> list[tuple[str, str]]:
    return [(step.name, step.state) for step in (await node.runs.view(ME, run_id)).steps if step.kind == "tool"]


async def events(node: Node, run_id: str) -> list[RunEvent]:
    return await node.runs.events(ME, run_id, (0, 0), limit=500)


@pytest.mark.parametrize("name", ["look", "put"])
async def test_a_tool_that_may_run_twice_runs_again_with_the_same_key(database, name):
    world = World()
    agent = world.agent([name])
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        outcome = await node.resume(run_id)
        assert (outcome.state, outcome.text) == ("completed", "done")
        assert [effect[0] for effect in world.effects] == [name, name]
        assert world.effects[0][1] == world.effects[1][1]
        assert world.effects[1][2] > world.effects[0][2]
        assert world.told == [f"{name} done"]
        assert await steps(node, run_id) == [(name, "completed")]


async def test_a_call_that_may_have_happened_waits_for_a_person_and_is_made_when_they_say_yes(database):
    world = World()
    agent = world.agent(["pay"])
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        assert (await node.resume(run_id)).state == "awaiting_input"
        assert len(world.effects) == 1
        [asked] = [event.data for event in await events(node, run_id) if event.type == "approval.requested"]
        assert (asked["name"], asked["reason"], asked["call_id"]) == ("pay", "in_doubt", "c0")
        accepted = await node.runs.answer(ME, run_id, call_id="c0", approve=True)
        assert accepted.task is not None
        outcome = await accepted.task
        assert outcome is not None
        assert outcome.state == "completed"
        assert world.told == ["pay done"]
        assert [effect[1] for effect in world.effects] == [world.effects[0][1]] * 2
        assert world.asked == 2


async def test_a_call_that_may_have_happened_is_not_made_when_a_person_says_no_and_the_model_hears_of_the_doubt(
    database,
):
    world = World()
    agent = world.agent(["pay"])
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        await node.resume(run_id)
        accepted = await node.runs.answer(ME, run_id, call_id="c0", approve=False)
        assert accepted.task is not None
        await accepted.task
        assert len(world.effects) == 1
        assert "not known" in world.told[0]
        [finished] = [event.data for event in await events(node, run_id) if event.type == "tool.finished"]
        assert finished["status"] == "in_doubt"
        assert await steps(node, run_id) == [("pay", "in_doubt")]


async def test_the_model_is_told_of_the_doubt_where_the_tool_says_so(database):
    world = World()
    agent = world.agent(["pay"], in_doubt="tell_model")
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        outcome = await node.resume(run_id)
        assert outcome.state == "completed"
        assert len(world.effects) == 1
        assert '"in_doubt"' in world.told[0]
        assert "not known" in world.told[0]
        assert await steps(node, run_id) == [("pay", "in_doubt")]
        assert outcome.effects == [{"tool": "pay", "call_id": "c0", "status": "in_doubt"}]


async def test_it_is_tried_again_where_the_tool_says_so(database):
    world = World()
    agent = world.agent(["pay"], in_doubt="retry")
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        assert (await node.resume(run_id)).state == "completed"
        assert len(world.effects) == 2
        assert len({effect[1] for effect in world.effects}) == 1


async def test_only_the_call_in_doubt_waits_the_others_of_its_response_are_made(database):
    world = World()
    agent = world.agent(["pay", "look", "put"])
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        assert (await node.resume(run_id)).state == "awaiting_input"
        accepted = await node.runs.answer(ME, run_id, call_id="c0", approve=True)
        assert accepted.task is not None
        await accepted.task
        assert world.told == ["pay done", "look done", "put done"]
        assert [effect[0] for effect in world.effects].count("pay") == 2


async def test_cancelling_a_run_that_waits_in_doubt_says_that_it_may_have_happened(database):
    world = World()
    agent = world.agent(["pay"])
    run_id = await crashed(database, agent)
    async with Node(database, agent) as node:
        await node.resume(run_id)
        async with asyncio.timeout(10):
            cancelled = await node.runs.cancel(ME, run_id)
        assert cancelled.state == "cancelled"
        assert cancelled.took_effect == [{"tool": "pay", "call_id": "c0", "status": "in_doubt"}]
        assert len(world.effects) == 1
        assert await steps(node, run_id) == [("pay", "in_doubt")]


async def test_a_call_that_needs_approval_is_made_once_after_a_yes(database):
    world = World(crash=False)
    agent = world.agent(["pay"], approval=True)
    async with Node(database, agent) as node:
        outcome = await node.finish("go")
        assert outcome.state == "awaiting_input"
        assert world.effects == []
        [row] = await node.runs.page(ME, limit=1)
        accepted = await node.runs.answer(ME, row.id, call_id="c0", approve=True)
        assert accepted.task is not None
        await accepted.task
        assert len(world.effects) == 1
        assert world.told == ["pay done"]


async def test_a_call_a_person_refused_is_not_made(database):
    world = World(crash=False)
    agent = world.agent(["pay", "look"], approval=True)
    async with Node(database, agent) as node:
        await node.finish("go")
        [row] = await node.runs.page(ME, limit=1)
        accepted = await node.runs.answer(ME, row.id, call_id="c0", approve=False)
        assert accepted.task is not None
        await accepted.task
        assert [effect[0] for effect in world.effects] == ["look"]
        assert "said no" in world.told[0]
        assert world.told[1] == "look done"


async def test_all_calls_of_a_response_that_need_approval_are_asked_for_at_once(database):
    world = World(crash=False)
    agent = world.agent(["pay", "pay", "look"], approval=True)
    async with Node(database, agent) as node:
        await node.finish("go")
        [row] = await node.runs.page(ME, limit=1)
        asked = [e.data["call_id"] for e in await events(node, row.id) if e.type == "approval.requested"]
        assert asked == ["c0", "c1"]
        first = await node.runs.answer(ME, row.id, call_id="c1", approve=False)
        assert (first.state, first.task) == ("awaiting_input", None)
        second = await node.runs.answer(ME, row.id, call_id="c0", approve=True)
        assert second.task is not None
        await second.task
        assert sorted(effect[0] for effect in world.effects) == ["look", "pay"]


async def test_an_answer_that_comes_while_other_calls_still_run_is_not_lost(database):
    """The question is shown as soon as it is durable, which may be before the run has come to rest."""
    asked, go_on = asyncio.Event(), asyncio.Event()
    paid: list[str] = []

    @tool(effect="pure")
    async def slow() -> str:
        asked.set()
        await go_on.wait()
        return "slow done"

    @tool(effect="once", approval=True)
    async def pay() -> str:
        paid.append("paid")
        return "paid"

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        if any(isinstance(part, ToolReturnPart) for part in messages[-1].parts):
            return ModelResponse(parts=[TextPart("done")])
        return ModelResponse(
            parts=[ToolCallPart("slow", {}, tool_call_id="s"), ToolCallPart("pay", {}, tool_call_id="p")]
        )

    agent: Agent[Any, Any] = Agent(FunctionModel(answer), name="actor", tools=[slow, pay])
    async with Node(database, agent) as node, asyncio.timeout(10):
        accepted = await node.start("go")
        await asked.wait()
        async for batch in node.runs.follow(ME, accepted.run_id, (0, 0)):
            if any(event.type == "approval.requested" for event in batch):
                break
        await node.runs.answer(ME, accepted.run_id, call_id="p", approve=True)
        go_on.set()
        async for _batch in node.runs.follow(ME, accepted.run_id, (0, 0)):
            pass
        assert (await node.runs.get(ME, accepted.run_id)).state == "completed"
        assert paid == ["paid"]


async def test_a_call_that_waits_for_a_person_leaves_the_calls_beside_it_alone(database_url):
    """The one that waits comes first: those after it have not even begun when it does."""
    tools = Tools()
    script = calling(ToolCall(name="ask", arguments={}), ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as stream:
        asked = await stream.until("approval.requested")
        await tools.entered.wait()
        assert not tools.cancelled.is_set()
        tools.go_on.set()
        finished = await stream.until("tool.finished")
        assert (finished.data["name"], finished.data["status"]) == ("hold", "ok")
        answer = {"call_id": asked.data["call_id"], "approve": True}
        while (await server.run(stream.run_id))["state"] != "awaiting_input":
            await asyncio.sleep(0.01)
        assert (await server.post(f"/v1/runs/{stream.run_id}/input", answer)).status_code in (200, 202)
        assert (await stream.until("run.completed")).data["text"] == "after the tools"
