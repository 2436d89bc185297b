"""A tool whose calls an agent's capabilities may check, change or hide is not called without a run."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.capabilities import (
    AbstractCapability,
    Capability,
    CombinedCapability,
    Hooks,
    IncludeToolReturnSchemas,
    Instrumentation,
    PrefixTools,
    PrepareTools,
    ProcessHistory,
    Thinking,
    WrapperCapability,
)
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.toolsets import ApprovalRequiredToolset, FunctionToolset
from tests.support.server import RunningServer, running

from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

made: list[str] = []


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    made.clear()


@tool(effect="once")
async def act() -> str:
    """Do it."""
    made.append("act")
    return "acted"


class AskFirst(AbstractCapability[Any]):
    async def before_tool_execute(self, ctx: RunContext[Any], *, call: Any, tool_def: Any, args: Any) -> Any:
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        return args


class AskAround(AbstractCapability[Any]):
    def get_wrapper_toolset(self, toolset: Any) -> Any:
        return ApprovalRequiredToolset(toolset)


class Hide(AbstractCapability[Any]):
    async def prepare_tools(self, ctx: RunContext[Any], tool_defs: list[Any]) -> list[Any]:
        return []


class DropCalls(AbstractCapability[Any]):
    async def after_model_request(self, ctx: RunContext[Any], *, request_context: Any, response: Any) -> Any:
        return response


class TurnAway(AbstractCapability[Any]):
    async def before_run(self, ctx: RunContext[Any]) -> None:
        raise PermissionError


class Later(AbstractCapability[Any]):
    async def for_run(self, ctx: RunContext[Any]) -> AbstractCapability[Any]:
        return AskFirst()


class Deeper(AskFirst):
    """Inherits its gate."""


class Instructs(AbstractCapability[Any]):
    def get_instructions(self) -> str:
        return "Be kind."


class Watches(AbstractCapability[Any]):
    async def on_event(self, ctx: RunContext[Any], *, event: Any) -> None:
        pass

    async def wrap_run_event_stream(self, ctx: RunContext[Any], *, stream: Any) -> AsyncIterator[Any]:
        async for event in stream:
            yield event


class SameName(CombinedCapability[Any]):
    """A combination that decides something itself."""

    async def prepare_tools(self, ctx: RunContext[Any], tool_defs: list[Any]) -> list[Any]:
        return []


def assigned() -> AbstractCapability[Any]:
    capability = Instructs()
    capability.before_tool_execute = AskFirst().before_tool_execute  # type: ignore[method-assign]
    return capability


def by_function(_ctx: RunContext[Any]) -> AbstractCapability[Any]:
    return AskFirst()


GATES = {
    "before a tool's execution": AskFirst,
    "a toolset around all": AskAround,
    "hides tools": Hide,
    "changes answers of the model": DropCalls,
    "before a run": TurnAway,
    "made for the run": Later,
    "made by a function": lambda: by_function,
    "inherited": Deeper,
    "assigned": assigned,
    "combined": lambda: CombinedCapability([Instructs(), AskFirst()]),
    "a combination loaded on demand": lambda: SameName([Instructs()], id="later", defer_loading=True),
    "wrapped": lambda: WrapperCapability(AskFirst()),
    "prefixed": lambda: PrefixTools(AskFirst(), prefix="x"),
    "hooks": Hooks,
    "prepare_tools": lambda: PrepareTools(lambda _ctx, _tools: []),
}

HARMLESS = {
    "instructions": Instructs,
    "an observer": Watches,
    "tools": lambda: Capability(tools=[]),
    "settings": Thinking,
    "instrumentation": Instrumentation,
    "return schemas": IncludeToolReturnSchemas,
    "history": lambda: ProcessHistory(lambda messages: messages),
    "combined": lambda: CombinedCapability([Instructs(), Watches()]),
}


async def call(server: RunningServer, name: str = "act") -> tuple[int, str | None]:
    answer = await server.post(f"/v1/tools/{name}", {"arguments": {}})
    return answer.status_code, answer.json().get("code")


async def listed(server: RunningServer) -> dict[str, Any]:
    [item] = [item for item in (await server.get("/v1/tools")).json()["items"] if item["name"] == "act"]
    return item


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
async def test_a_capability_that_may_stand_before_a_tool_keeps_it_to_runs(sqlite_url, gate):
    agent = Agent(name="helper", tools=[act], capabilities=[gate()])
    async with running(sqlite_url, agents=[agent]) as server:
        assert await call(server) == (422, "needs_run")
        assert made == []
        item = await listed(server)
        assert (item["needs_run"], item["approval"], item["approval_by_call"]) == (True, False, True)


@pytest.mark.parametrize("harmless", HARMLESS.values(), ids=HARMLESS)
async def test_a_capability_that_only_contributes_or_watches_keeps_no_tool_to_runs(sqlite_url, harmless):
    agent = Agent(name="helper", tools=[act], capabilities=[harmless()])
    async with running(sqlite_url, agents=[agent]) as server:
        assert await call(server) == (200, None)
        item = await listed(server)
        assert (item["needs_run"], item["approval_by_call"]) == (False, False)


async def test_a_capability_stands_before_the_tools_an_agent_is_registered_with_too(sqlite_url):
    def setup(app: Any) -> None:
        app.agent(Agent(name="helper", capabilities=[AskFirst()]), tools=[act])
        app.agent(Agent(name="free"), tools=[act])

    async with running(sqlite_url, setup=setup) as server:
        assert await call(server) == (422, "needs_run")
        shown = (await server.get("/v1/agents/helper")).json()["tools"][0]
        free = (await server.get("/v1/agents/free")).json()["tools"][0]
        assert (shown["approval_by_call"], free["approval_by_call"]) == (True, False)


async def test_a_capability_is_seen_through_a_wrapped_agent(sqlite_url):
    agent = WrapperAgent(Agent(name="helper", tools=[act], capabilities=[AskFirst()]))
    async with running(sqlite_url, setup=lambda app: app.agent(agent, name="helper")) as server:
        assert await call(server) == (422, "needs_run")


async def test_an_agent_class_that_takes_over_how_runs_are_made_keeps_its_tools_to_runs(sqlite_url):
    class Guarded(WrapperAgent[Any, Any]):
        async def run(self, *args: Any, **kwargs: Any) -> Any:
            raise PermissionError

    class GuardedItself(Agent[Any, Any]):
        def iter(self, *args: Any, **kwargs: Any) -> Any:
            raise PermissionError

    for agent in (Guarded(Agent(name="x", tools=[act])), GuardedItself(name="x", tools=[act])):
        async with running(sqlite_url, setup=lambda app, agent=agent: app.agent(agent, name="helper")) as server:
            assert await call(server) == (422, "needs_run")


async def test_a_toolset_with_a_method_of_its_own_is_not_taken_for_a_plain_one(sqlite_url):
    toolset = FunctionToolset([act])
    toolset.call_tool = AskFirst().before_tool_execute  # type: ignore[method-assign]
    async with running(sqlite_url, setup=lambda app: app.agent(Agent(name="h"), toolsets=[toolset])) as server:
        assert await call(server) == (422, "needs_run")


async def test_the_gate_of_a_capability_holds_in_runs_as_before(sqlite_url):
    script = Script(rules=[Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name="act")]), times=1)])
    agent = Agent(name="helper", tools=[act], capabilities=[AskFirst()])
    async with running(sqlite_url, script, agents=[agent]) as server:
        assert (await server.send("go")).status_code == 202
        assert made == []
