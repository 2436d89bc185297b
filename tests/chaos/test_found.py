"""What the harness has found, each as a small test of its own."""

from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.support.node import Node

from pilothouse.db import Database
from pilothouse.identity.principal import local_principal
from pilothouse.runs.reaper import Reaper
from pilothouse.tools import tool

ME = local_principal()


def payer() -> Agent[Any, Any]:
    @tool(effect="once", approval=True)
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
    async with Node(database, payer()) as leaving, Node(database, payer()) as staying:
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
