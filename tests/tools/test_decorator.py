import inspect
from typing import Any

import pytest
from pydantic_ai import Agent, RunContext, Tool
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.toolsets import CombinedToolset, ExternalToolset, FunctionToolset

from pilothouse.errors import StartupError
from pilothouse.tools import ToolPolicy, policy_of, tool
from pilothouse.tools.toolsets import default_policy, find_tools, function_toolset, opaque_labels, policy_of_tool


@tool(effect="pure", scopes=["orders:read"], timeout=5, name="lookup")
async def order_lookup(order_id: str, verbose: bool = False) -> dict[str, Any]:
    """Look up one order.

    Args:
        order_id: the order's number.
        verbose: tell everything.
    """
    return {"id": order_id, "verbose": verbose}


@tool
def add(a: int, b: int) -> int:
    return a + b


@tool(effect="idempotent")
async def whoami(ctx: RunContext[str]) -> str:
    """Say who is asking."""
    return ctx.deps


def calls_then_says(name: str, args: dict[str, Any]) -> FunctionModel:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        for part in messages[-1].parts:
            if isinstance(part, ToolReturnPart):
                return ModelResponse(parts=[TextPart(part.model_response_str())])
        assert [item.name for item in info.function_tools] == [name]
        return ModelResponse(parts=[ToolCallPart(name, args)])

    return FunctionModel(answer)


async def test_a_decorated_function_is_still_called_as_the_function_it_was():
    assert await order_lookup("1042", verbose=True) == {"id": "1042", "verbose": True}
    assert add(1, 2) == 3
    assert list(inspect.signature(order_lookup).parameters) == ["order_id", "verbose"]
    assert inspect.iscoroutinefunction(order_lookup)
    assert not inspect.iscoroutinefunction(add)


def test_it_carries_its_policy():
    assert policy_of(order_lookup) == ToolPolicy(
        name="lookup", effect="pure", scopes=("orders:read",), timeout_seconds=5, description="Look up one order."
    )
    assert policy_of(add) == ToolPolicy(name="add", effect="once")
    assert policy_of(len) is None


def test_one_function_can_be_two_tools():
    def plain() -> None: ...

    first, second = tool(name="first", effect="pure")(plain), tool(name="second")(plain)
    assert policy_of(first) == ToolPolicy(name="first", effect="pure")
    assert policy_of(second) == ToolPolicy(name="second")
    assert policy_of(plain) is None


@pytest.mark.parametrize(
    ("function", "args", "answer"),
    [
        (order_lookup, {"order_id": "7"}, '{"id":"7","verbose":false}'),
        (add, {"a": 1, "b": 2}, "3"),
        (whoami, {}, "Mira"),
    ],
)
async def test_a_plain_pydantic_ai_agent_takes_it(function, args, answer):
    policy = policy_of(function)
    assert policy is not None
    agent = Agent(calls_then_says(policy.name, args), tools=[function], deps_type=str)
    assert (await agent.run("go", deps="Mira")).output == answer


def test_the_model_sees_the_docstring_and_the_annotations():
    definition = Tool(order_lookup).tool_def
    assert definition.name == "lookup"
    assert definition.description == "Look up one order."
    assert definition.parameters_json_schema["properties"]["order_id"] == {
        "type": "string",
        "description": "the order's number.",
    }


class Desk:
    @tool(effect="pure")
    async def hours(self, day: str) -> str:
        """When we are open."""
        return f"{day}: 9-17"


async def test_methods_can_be_tools():
    agent = Agent(calls_then_says("hours", {"day": "Monday"}), tools=[Desk().hours])
    assert (await agent.run("go")).output == "Monday: 9-17"
    assert policy_of(Desk().hours).effect == "pure"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"effect": "twice"}, "effect is one of pure, idempotent, once; got 'twice'"),
        ({"in_doubt": "guess"}, "in_doubt is one of ask, tell_model, retry; got 'guess'"),
        ({"timeout": 0}, "timeout is a number of seconds above 0; got 0"),
        ({"timeout": -1.5}, "timeout is a number of seconds above 0; got -1.5"),
        ({"timeout": float("nan")}, "timeout is a number of seconds above 0; got nan"),
        ({"timeout": "5"}, "not supported between"),
        ({"max_output_chars": 3}, "max_output_chars is 256 or more; got 3"),
        ({"scopes": "orders:read"}, "scopes is a list such as ['orders:read'], not one text"),
        ({"scopes": ["a b"]}, "a scope is one word such as 'orders:write'; got 'a b'"),
        ({"name": "not a name"}, "a name is 1 to 64 letters, digits, '_' or '-', got 'not a name'"),
    ],
)
def test_wrong_values_are_refused_at_definition_with_the_place(options, sentence):
    with pytest.raises(StartupError) as caught:

        @tool(**options)
        def refund() -> None: ...

    assert sentence in caught.value.message
    assert "refund (" in caught.value.message
    assert "test_decorator.py:" in caught.value.message


@pytest.mark.parametrize("given", [Desk, 5, lambda: (yield)])
def test_only_functions_that_return_can_be_tools(given):
    with pytest.raises(StartupError):
        tool(given)


def test_policies_are_found_through_wrappers_prefixes_and_renames():
    inner = FunctionToolset([order_lookup])
    wrapped = CombinedToolset(
        [
            inner.prefixed("shop").filtered(lambda _ctx, _definition: True),
            FunctionToolset([add]).renamed({"plus": "add"}).prefixed("math"),
        ]
    )
    assert {found.name: found.policy.effect for found in find_tools([wrapped])} == {
        "shop_lookup": "pure",
        "math_plus": "once",
    }
    assert [found.policy.name for found in find_tools([wrapped])] == ["shop_lookup", "math_plus"]


def test_tools_nobody_decorated_are_once_and_keep_what_pydantic_ai_was_told():
    def drop(table: str) -> None:
        """Drop a table."""

    plain = FunctionToolset([Tool(drop, requires_approval=True, timeout=3)])
    [found] = find_tools([plain])
    assert found.policy == ToolPolicy(
        name="drop", effect="once", approval=True, timeout_seconds=3, description="Drop a table."
    )
    assert default_policy("mcp.thing").effect == "once"


def test_our_toolset_leaves_approval_to_the_run_and_given_tools_alone():
    @tool(approval=True)
    def wipe() -> None: ...

    given = Tool(wipe)
    toolset = function_toolset([given], id="own")
    # Marked as unapproved for Pydantic AI, the call would never reach the run, which asks for the approval.
    assert toolset.tools["wipe"].tool_def.kind == "function"
    assert policy_of_tool(toolset.tools["wipe"], "wipe").approval
    assert toolset.tools["wipe"] is not given


def test_toolsets_that_need_a_run_are_named():
    assert opaque_labels([FunctionToolset([add]), ExternalToolset([], id="desk").prefixed("x")]) == [
        "ExternalToolset 'desk'"
    ]
