import copy
import functools
from dataclasses import dataclass

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    NativeOutput,
    PromptedOutput,
    RunContext,
    TextOutput,
    Tool,
    ToolOutput,
)
from pydantic_ai.agent import WrapperAgent
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import ExternalToolset, FunctionToolset

from pilothouse.agents import AgentRegistry, RunLimits
from pilothouse.agents.endpoints import router
from pilothouse.errors import NotFound, StartupError
from pilothouse.http.problems import install_problem_handlers
from pilothouse.identity.http import current_principal
from pilothouse.identity.principal import local_principal
from pilothouse.settings import RunSettings
from pilothouse.tools import tool


class Answer(BaseModel):
    city: str


@dataclass
class Desk:
    number: int


@tool(effect="pure")
async def order_lookup(order_id: str) -> str:
    """Look up one order."""
    return order_id


@tool(approval=True, four_eyes=True)
async def refund(order_id: str) -> str:
    return order_id


@pytest.fixture
def registry() -> AgentRegistry:
    return AgentRegistry(RunSettings())


def support(**options) -> Agent:
    return Agent(TestModel(), name="support", **options)


def test_any_agent_is_served_unchanged(registry):
    agent = support(tools=[order_lookup], retries=2, instructions="Be kind.")
    before = copy.copy(vars(agent))
    tools_before = dict(vars(agent.toolsets[0].tools["order_lookup"]))
    served = registry.add(agent, tools=[refund], toolsets=[ExternalToolset([], id="x")], temperature=0.1, max_tokens=50)
    assert served.agent is agent
    assert vars(agent) == before
    assert dict(vars(agent.toolsets[0].tools["order_lookup"])) == tools_before
    assert served.model_settings == {"temperature": 0.1, "max_tokens": 50}
    assert {name: policy.effect for name, policy in served.policies.items()} == {
        "order_lookup": "pure",
        "refund": "once",
    }
    assert len(served.toolsets) == 2


async def test_a_run_with_the_served_toolsets_has_all_the_tools(registry):
    served = registry.add(support(tools=[order_lookup]), tools=[lambda_free := _plain])
    result = await served.agent.run("go", toolsets=served.toolsets)
    assert result.output == '{"order_lookup":"a","_plain":"b"}'
    assert served.policies[lambda_free.__name__].effect == "once"


def _plain() -> str:
    return "b"


def test_names_are_needed_and_taken_once(registry):
    registry.add(support())
    with pytest.raises(StartupError, match="Two agents are named support"):
        registry.add(support())
    with pytest.raises(StartupError, match="An agent needs a name"):
        registry.add(Agent(TestModel()))
    with pytest.raises(StartupError, match="not usable"):
        registry.add(Agent(TestModel()), name="a/b")
    registry.add(Agent(TestModel()), name="second")
    assert [served.name for served in registry] == ["support", "second"]
    with pytest.raises(NotFound, match="Agents here: support, second"):
        registry.get("third")


def test_the_default_is_the_only_one_or_the_one_that_was_said(registry):
    assert registry.default is None
    first = registry.add(support())
    assert registry.default is first
    registry.add(support(), name="second")
    assert registry.default is None
    third = registry.add(support(), name="third", default=True)
    assert registry.default is third


def test_what_is_given_wins_over_the_prompt_which_wins_over_the_agent(tmp_path):
    (tmp_path / "p.md").write_text(
        "---\nmodel: test\nsettings: {temperature: 0.5, top_p: 0.9}\ndescription: From the prompt.\n---\nHi"
    )
    registry = AgentRegistry(RunSettings(), base=tmp_path)
    own = registry.add(support())
    assert isinstance(own.model, TestModel)
    assert own.model_name == "test:test"
    assert own.model_settings is None
    prompted = registry.add(support(), name="prompted", prompt="p.md", temperature=1)
    assert prompted.model == "test"
    assert prompted.model_settings == {"temperature": 1, "top_p": 0.9}
    assert prompted.description == "From the prompt."
    assert registry.add(support(), name="third", prompt=prompted.prompt, model="x:y", fallback=["a:b"]).model == "x:y"
    with pytest.raises(StartupError, match="No such file"):
        registry.add(support(), name="fourth", prompt="q.md")


def test_limits_are_the_configured_ones_with_the_agents_own_in_place():
    registry = AgentRegistry(RunSettings(timeout_seconds=99, max_iterations=7))
    limits = registry.add(support(), max_iterations=3, tool_timeout_seconds=1.5, history_tokens=None).limits
    assert (limits.timeout_seconds, limits.max_iterations, limits.tool_timeout_seconds) == (99, 3, 1.5)
    assert limits.history_tokens is None
    assert RunLimits.from_settings(RunSettings()).max_iterations == RunSettings().max_iterations


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_iteration": 3}, "max_iteration is not a limit. Limits: timeout_seconds"),
        ({"timeout_seconds": 0}, "The limit timeout_seconds is wrong"),
        ({"max_iterations": "many"}, "The limit max_iterations is wrong"),
        ({"queue_length": 3}, "queue_length is not a limit"),
    ],
)
def test_wrong_limits_are_refused(registry, limits, sentence):
    with pytest.raises(StartupError) as caught:
        registry.add(support(), **limits)
    assert caught.value.message.startswith("Agent support: ")
    assert sentence in caught.value.message


def test_two_tools_of_one_name_are_refused_before_a_run_trips_over_them(registry):
    with pytest.raises(StartupError, match="Agent support has two tools named refund"):
        registry.add(support(tools=[refund]), tools=[refund])
    with pytest.raises(StartupError, match="two tools named refund"):
        registry.add(support(), toolsets=[FunctionToolset([refund]), FunctionToolset([refund])])
    assert len(registry) == 0


def test_a_tool_added_to_the_agent_later_still_has_its_policy(registry):
    agent = support()
    served = registry.add(agent)
    agent.tool_plain(order_lookup)
    assert registry.policy(served, "order_lookup").effect == "pure"
    assert registry.policy(served, "from_mcp").effect == "once"


class Till:
    @tool
    def refund_all(self, order_id: str) -> str:
        return order_id


def _plain_answer(text: str) -> str:
    return text


@pytest.mark.parametrize(
    "output",
    [
        refund,
        [refund],
        [str, [order_lookup]],
        ToolOutput(refund),
        [ToolOutput(Answer), ToolOutput(refund, name="pay")],
        TextOutput(refund),
        NativeOutput([Answer, refund]),
        PromptedOutput(refund),
        Till().refund_all,
        functools.partial(refund),
    ],
    ids=str.split("bare list nested ToolOutput named TextOutput NativeOutput PromptedOutput method partial"),
)
def test_a_tool_is_no_output_function_for_its_policy_would_not_hold(registry, output):
    agent = Agent(None, name="pays", output_type=output)
    for given in (agent, WrapperAgent(agent)):
        with pytest.raises(StartupError, match=r"pays answers with .*(refund|order_lookup).* tools="):
            registry.add(given, name="pays")


@pytest.mark.parametrize(
    "output", [_plain_answer, TextOutput(_plain_answer), [Answer, _plain_answer], Answer | Desk, str]
)
def test_other_output_functions_are_served(registry, output):
    assert registry.add(Agent(None, name="fine", output_type=output)).name == "fine"


def test_agent_decorators_keep_our_policy(registry):
    agent = support()

    @agent.tool
    @tool(effect="idempotent")
    async def with_context(ctx: RunContext[object]) -> None: ...

    assert registry.add(agent).policies["with_context"].effect == "idempotent"


def test_only_decorated_tools_can_be_called_without_a_model(registry):
    registry.add(support(tools=[order_lookup, _plain]), tools=[refund, Tool(len, name="length", takes_ctx=False)])
    assert [item.policy.name for item in registry.tools] == ["order_lookup", "refund"]


def test_an_agent_with_deps_needs_to_know_how_to_make_them(registry):
    agent = support(deps_type=Desk)
    with pytest.raises(StartupError, match=r"Agent support has deps_type Desk"):
        registry.add(agent)
    with pytest.raises(StartupError, match="deps is a function"):
        registry.add(agent, deps=Desk(1))
    assert registry.add(agent, deps=lambda request: Desk(len(request.subject))).deps is not None


@pytest.mark.parametrize(
    ("output", "schema"),
    [
        (str, None),
        ([str, DeferredToolRequests], None),
        (Answer, "object"),
        ([Answer, DeferredToolRequests], "object"),
        (int, "integer"),
    ],
)
def test_structured_answers_have_a_schema(registry, output, schema):
    served = registry.add(support(output_type=output))
    assert (served.output_schema or {}).get("type") == schema


def test_an_answer_of_either_kind_names_both(registry):
    served = registry.add(support(output_type=[Answer, str]))
    assert served.output_schema is not None
    assert len(served.output_schema["anyOf"]) == 2


def test_system_prompts_are_seen_and_instructions_are_not_taken_for_them(registry):
    dynamic = support()

    @dynamic.system_prompt
    def _date() -> str:
        return "today"

    agents = [
        support(),
        support(instructions="x"),
        support(system_prompt="x"),
        dynamic,
        WrapperAgent(support(system_prompt="x")),
    ]
    found = [registry.add(agent, name=f"a{number}").has_system_prompt for number, agent in enumerate(agents)]
    assert found == [False, False, True, True, True]


@pytest.fixture
async def client(registry, tmp_path):
    (tmp_path / "p.md").write_text("---\nvariables: {plan: free}\n---\nSecret text {{ plan }}")
    registry.add(
        support(tools=[order_lookup], description="Helps."),
        tools=[refund],
        toolsets=[ExternalToolset([], id="desk")],
        prompt=tmp_path / "p.md",
        fallback=["anthropic:claude-haiku-5-5"],
    )
    registry.add(Agent(None, name="plain", output_type=Answer))
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(router)
    app.state.agents = registry
    app.dependency_overrides[current_principal] = local_principal
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://shop.test") as client:
        client.app = app
        yield client


async def test_agents_are_listed(client):
    body = (await client.get("/v1/agents")).json()
    assert body == {
        "items": [
            {"name": "support", "description": "Helps.", "model": "test:test", "default": False},
            {"name": "plain", "description": "", "model": None, "default": False},
        ],
        "next_cursor": None,
    }


async def test_an_agent_is_shown_with_tools_limits_and_prompt_but_not_its_text(client):
    answer = await client.get("/v1/agents/support")
    body = answer.json()
    assert [(item["name"], item["effect"], item["approval"], item["four_eyes"]) for item in body["tools"]] == [
        ("order_lookup", "pure", False, False),
        ("refund", "once", True, True),
    ]
    assert body["tools"][0]["parameters"]["required"] == ["order_id"]
    assert body["toolsets"] == ["ExternalToolset 'desk'"]
    assert body["limits"]["max_iterations"] == 20
    assert body["prompt"]["variables"] == {"plan": "free"}
    assert body["fallback"] == ["anthropic:claude-haiku-5-5"]
    assert body["output_schema"] is None
    assert "Secret text" not in answer.text
    assert (await client.get("/v1/agents/plain")).json()["output_schema"]["type"] == "object"


async def test_an_unknown_agent_is_a_problem_that_lists_the_known(client):
    answer = await client.get("/v1/agents/nope")
    assert (answer.status_code, answer.json()["code"]) == (404, "agent_not_found")
    assert "support, plain" in answer.json()["detail"]


async def test_the_routes_are_described(client):
    paths = client.app.openapi()["paths"]
    assert {"200", "401", "403", "404"} <= paths["/v1/agents/{name}"]["get"]["responses"].keys()
    assert paths["/v1/agents"]["get"]["operationId"] == "list_agents"
