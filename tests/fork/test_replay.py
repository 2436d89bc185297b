"""`pilothouse replay`: a recorded run against the code as it is now, without a provider and without a tool."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from sqlalchemy import update
from tests.support.node import Node

from pilothouse.runs.replay import replay
from pilothouse.runs.tables import steps
from pilothouse.tools import tool

CALLS: list[str] = []


def model(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    asked = sum(isinstance(message, ModelResponse) for message in messages)
    if asked == 0:
        return ModelResponse(parts=[ToolCallPart("look", {"item": "7"}), ToolCallPart("nothing", {})])
    return ModelResponse(parts=[TextPart("It is packed.")])


@tool(effect="once")
async def look(item: str) -> str:
    CALLS.append(item)
    return f"{item} is packed"


@tool(name="look")
async def look_by_number(item: int) -> str:
    CALLS.append(str(item))
    return ""


@tool(name="look")
async def look_at_two(item: str, other: str) -> str:
    CALLS.append(item)
    return other


@tool
async def extra() -> str:
    return ""


def agent(*tools: Any, **options: Any) -> Agent[Any, Any]:
    return Agent(FunctionModel(model, model_name="m"), name="looker", tools=tools, **options)


@pytest.fixture
async def recorded(database):
    async with Node(database, agent(look)) as node:
        accepted = await node.start("where is 7?")
        await accepted.task
    CALLS.clear()
    return accepted.run_id


async def again(database: Any, run_id: str, now: Agent[Any, Any], *, ignore: Sequence[str] = (), **served: Any):
    node = Node(database, now, **served)
    replayed = await replay(database, node.registry, run_id, ignore=ignore)
    await node.gateway.close()
    assert CALLS == []
    return replayed


async def test_the_same_code_does_the_same(database, recorded):
    replayed = await again(database, recorded, agent(look))
    assert replayed.difference is None
    assert replayed.responses == 2


async def test_a_tool_that_is_gone_is_found(database, recorded):
    found = (await again(database, recorded, agent())).difference
    assert found is not None
    assert (found.step, "not offered" in found.what) == (1, True)


async def test_other_instructions_are_found_though_the_recorded_answers_still_fit(database, recorded):
    now = agent(look, instructions="Be brief.")
    found = (await again(database, recorded, now)).difference
    assert found is not None
    assert (found.step, found.what, found.now) == (1, "the instructions are others", "Be brief.")
    assert (await again(database, recorded, now, ignore=["instructions"])).difference is None


async def test_a_tool_described_otherwise_or_added_is_found(database, recorded):
    @tool(name="look", effect="once")
    async def look_closely(item: str) -> str:
        """Look closely."""
        return item

    found = (await again(database, recorded, agent(look_closely))).difference
    assert found is not None
    assert (found.step, found.what) == (1, "the tool look is described otherwise")
    assert "Look closely." in (found.now or "")
    found = (await again(database, recorded, agent(look, extra))).difference
    assert found is not None
    assert (found.step, found.what) == (1, "the tool extra is offered, which it was not")
    later = (await again(database, recorded, agent(look, extra), ignore=["tools"])).difference
    assert later is not None  # the model called a tool nobody knows, and is told which there are
    assert (later.step, later.what) == (4, "what is sent to the model is otherwise")


async def test_runs_of_releases_that_kept_no_hashes_are_compared_by_what_there_is(database, recorded):
    await database.write(lambda connection: connection.execute(update(steps).values(told=None)) and None)
    assert (await again(database, recorded, agent(look, instructions="Be brief."))).difference is None


async def test_arguments_that_are_not_valid_any_more_are_found(database, recorded):
    found = (await again(database, recorded, agent(look_at_two), ignore=["tools"])).difference
    assert found is not None
    assert found.recorded == "result of look: 7 is packed"
    assert "other" in (found.now or "")


async def test_an_answer_that_is_not_taken_any_more_is_found(database, recorded):
    found = (await again(database, recorded, agent(look, output_type=int))).difference
    assert found is not None


async def test_another_prompt_is_found(database, recorded, tmp_path):
    prompt = tmp_path / "p.md"
    prompt.write_text('---\nversion: "2"\n---\nBe kind.\n')
    found = (await again(database, recorded, agent(look), prompt=prompt)).difference
    assert found is not None
    assert found.what == "the prompt is another one"
