"""The agent of a simulation: a scripted model and tools of every effect, whose awaits are the simulation's.

The model's answer depends on the transcript alone, so a continued run goes on as the first attempt would have.
A message is `<name> <round>/<round>/...`, a round is names of tools with commas between, and the answer comes last.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from pilothouse.agents.registry import AgentRegistry, ServedAgent
from pilothouse.llm.gateway import ModelGateway
from pilothouse.llm.guard import current_guard
from pilothouse.llm.resilient import Retries
from pilothouse.runs.active import current_run
from pilothouse.settings import Settings
from pilothouse.tools import tool
from pilothouse.tools.context import current_tool_call
from pilothouse.tools.policy import Effect, InDoubt

if TYPE_CHECKING:
    from tests.simulation.world import World

TOOLS: dict[str, tuple[Effect, InDoubt, bool]] = {
    "look": ("pure", "ask", False),
    "put": ("idempotent", "ask", False),
    "pay_tell": ("once", "tell_model", False),
    "pay_ask": ("once", "ask", False),
    "pay_retry": ("once", "retry", False),
    "spend": ("once", "tell_model", True),
}
RUN_SECONDS = 40.0
MODEL_SECONDS = 8.0
TOOL_SECONDS = 6.0
QUEUE_LENGTH = 3


class Stage:
    """What is made once and serves all seeds: the agent, its registry, the gateway. `world` is the seed's."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.settings = Settings(
            runs={
                "timeout_seconds": RUN_SECONDS,
                "model_timeout_seconds": MODEL_SECONDS,
                "tool_timeout_seconds": TOOL_SECONDS,
                "queue_length": QUEUE_LENGTH,
            }
        )
        self.registry = AgentRegistry(self.settings.runs)
        model = FunctionModel(self._whole, stream_function=self._stream, model_name="scripted")
        self.agent: ServedAgent = self.registry.add(
            Agent(model, name="scripted", tools=[self._tool(*item) for item in TOOLS.items()])
        )
        self.gateway = ModelGateway(self.settings, {}, retries=Retries(attempts=3, jitter=self._jitter))

    @property
    def _here(self) -> "World":
        assert self.world is not None
        return self.world

    def _jitter(self) -> float:
        return self._here.code_rng.random()

    def _tool(self, name: str, policy: tuple[Effect, InDoubt, bool]) -> Callable[..., Any]:
        effect, in_doubt, approval = policy

        @tool(name=name, effect=effect, in_doubt=in_doubt, approval=approval)
        async def act(key: str) -> str:
            """Do it."""
            call, run = current_tool_call(), current_run.get()
            assert call is not None
            assert run is not None
            await self._here.work(
                run, "tool", name, call.call_id, key=call.idempotency_key, hangs=self._here.plan.tool_hangs
            )
            return f"{name} {key}"

        return act

    async def _answer(self, messages: list[ModelMessage]) -> ModelResponse:
        run = current_run.get()
        assert run is not None
        if (guard := current_guard.get()) is not None:
            await guard()  # as the transport does, right before it sends
        world = self._here
        world.checks.whole(run.run_id, messages)
        text, position = _prompt(messages)
        work = await world.work(run, "model", "model", str(position), hangs=world.plan.model_hangs)
        if world.faulty and world.rng.random() < world.plan.model_errors:
            work.outcome = "error"
            raise ModelHTTPError(503, "scripted")
        return response_at(text, position)

    async def _whole(self, messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        return await self._answer(messages)

    async def _stream(
        self, messages: list[ModelMessage], _info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        response = await self._answer(messages)
        run = current_run.get()
        assert run is not None
        calls: dict[int, DeltaToolCall] = {}
        for index, part in enumerate(response.parts):
            if isinstance(part, TextPart):
                for piece in re.findall(r"\S+ ?", part.content):
                    yield piece
                    await self._here.pause_in_stream(run)
            elif isinstance(part, ToolCallPart):
                calls[index] = DeltaToolCall(part.tool_name, str(part.args), tool_call_id=part.tool_call_id)
        if calls:
            yield calls


def response_at(text: str, position: int) -> ModelResponse:
    """What the model says to a message after so many of its own responses."""
    name, _, script = text.partition(" ")
    rounds = [item for item in script.split("/") if item]
    if position >= len(rounds):
        return ModelResponse(parts=[TextPart(f"this is the answer to {name}")])
    calls = [
        ToolCallPart(tool, f'{{"key": "{name}.{position}.{index}"}}', tool_call_id=f"{name}.{position}.{index}")
        for index, tool in enumerate(rounds[position].split(","))
    ]
    return ModelResponse(parts=[*([TextPart("let me see")] if position == 0 else []), *calls])


def _prompt(messages: list[ModelMessage]) -> tuple[str, int]:
    """The newest message of the user, and how often the model has spoken since."""
    text, position = "", 0
    for message in messages:
        if isinstance(message, ModelResponse):
            position += 1
            continue
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                text, position = str(part.content), 0
    return text, position


def results_in(message: ModelMessage) -> list[str]:
    """The ids of calls that a message answers."""
    return [part.tool_call_id for part in message.parts if isinstance(part, ToolReturnPart)]


async def forever() -> None:
    """Never answers."""
    await asyncio.get_running_loop().create_future()
