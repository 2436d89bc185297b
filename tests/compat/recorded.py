"""The agent whose unfinished runs are kept as fixtures, and the world it acts on. Its behaviour must not change."""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from pilothouse.tools import current_tool_call, tool


@dataclass
class World:
    """What was asked and done. `asked` counts model requests by (case, responses before it).

    `step_seconds` apart the tools of one response end, so that each has a transaction of its own.
    """

    asked: Counter[tuple[str, int]] = field(default_factory=Counter)
    executed: list[tuple[str, str]] = field(default_factory=list)
    step_seconds: float = 0


def agent_for(world: World) -> Agent[Any, Any]:
    """A user's message `case <name>` gets three calls, then (for `ask`) one that needs a person, then text."""

    def answer(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        last = max(n for n, message in enumerate(messages) if any(isinstance(p, UserPromptPart) for p in message.parts))
        part = next(part for part in messages[last].parts if isinstance(part, UserPromptPart))
        case, number = str(part.content), sum(isinstance(message, ModelResponse) for message in messages[last:])
        world.asked[case, number] += 1
        key = re.sub(r"\W+", "_", case)
        if "text" in case:
            return ModelResponse(parts=[TextPart(f"Done: {case}.")])
        if number == 0:
            names = ("look", "pay", "mark")
            return ModelResponse(
                parts=[ToolCallPart(name, {"item": key}, tool_call_id=f"{key}_{name}") for name in names]
            )
        if number == 1 and "ask" in case:
            return ModelResponse(parts=[ToolCallPart("close", {"item": key}, tool_call_id=f"{key}_close")])
        assert isinstance(messages[-1], ModelRequest)
        return ModelResponse(parts=[TextPart(f"Done: {case}.")])

    def done(name: str, item: str) -> str:
        call = current_tool_call()
        assert call is not None
        world.executed.append((call.run_id, call.call_id))
        return f"{name} {item}"

    @tool(effect="pure")
    async def look(item: str) -> str:
        return done("look", item)

    @tool(effect="once", in_doubt="tell_model")
    async def pay(item: str) -> str:
        await asyncio.sleep(world.step_seconds)
        return done("pay", item)

    @tool(effect="idempotent")
    async def mark(item: str) -> str:
        await asyncio.sleep(2 * world.step_seconds)
        return done("mark", item)

    @tool(effect="once", approval=True)
    async def close(item: str) -> str:
        return done("close", item)

    return Agent(FunctionModel(answer, model_name="recorded"), name="recorded", tools=[look, pay, mark, close])
