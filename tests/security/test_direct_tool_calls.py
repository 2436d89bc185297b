"""`POST /v1/tools/{name}` runs nothing that only a run can check; in runs the rules of wrapped tools hold."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext, Tool
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.toolsets import (
    ApprovalRequiredToolset,
    CombinedToolset,
    FunctionToolset,
    PrefixedToolset,
    WrapperToolset,
)
from tests.support.server import ALL_SCOPES, RunningServer, running

from pilothouse.app import Pilothouse
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import current_tool_call, tool
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.toolsets import stricter

made: list[str] = []


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    made.clear()


def act(**policy: Any):
    @tool(**{"effect": "once", **policy})
    async def act() -> str:
        """Do it."""
        made.append("act")
        return "acted"

    return act


@dataclass
class Quiet(WrapperToolset[Any]):
    """A wrapper of somebody's own that refuses calls."""

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: Any) -> Any:
        raise ModelRetry("not now")


@dataclass
class Silent(PrefixedToolset[Any]):
    """A subclass of a transparent toolset that is none."""

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: Any) -> Any:
        raise ModelRetry("not now")


class Choosy(FunctionToolset[Any]):
    """A function toolset that decides for itself what it offers."""

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, Any]:
        return {}


class PerRun(FunctionToolset[Any]):
    """A function toolset that is another one in each run."""

    async def for_run(self, ctx: RunContext[Any]) -> FunctionToolset[Any]:
        return FunctionToolset([])


class PerStep(FunctionToolset[Any]):
    """A function toolset that is another one in each step of a run."""

    async def for_run_step(self, ctx: RunContext[Any]) -> FunctionToolset[Any]:
        return FunctionToolset([])


class Entered(FunctionToolset[Any]):
    """A function toolset that has to be entered."""

    async def __aenter__(self) -> "Entered":
        return self


def hidden(_ctx: RunContext[Any], _tool_def: Any) -> None:
    return None


def never(_ctx: RunContext[Any]) -> None:
    raise ModelRetry("not with these arguments")


def plain() -> FunctionToolset[Any]:
    return FunctionToolset([act()])


WRAPPED = {
    "approval": lambda: ApprovalRequiredToolset(plain()),
    "filtered": lambda: plain().filtered(lambda _ctx, _tool: False),
    "prepared": lambda: plain().prepared(lambda _ctx, _tools: []),
    "of their own": lambda: Quiet(plain()),
    "a transparent one's subclass": lambda: Silent(plain(), ""),
    "a function toolset's subclass": lambda: Choosy([act()]),
    "another one in each run": lambda: PerRun([act()]),
    "another one in each step": lambda: PerStep([act()]),
    "one that has to be entered": lambda: Entered([act()]),
    "around a prefix": lambda: plain().prefixed("shop").filtered(lambda _ctx, _tool: False),
    "around a rename": lambda: plain().renamed({"acting": "act"}).filtered(lambda _ctx, _tool: False),
    "inside a prefix": lambda: PrefixedToolset(plain().filtered(lambda _ctx, _tool: False), "shop"),
    "around a combination": lambda: CombinedToolset([plain()]).filtered(lambda _ctx, _tool: False),
    "prepare": lambda: FunctionToolset([Tool(act(), prepare=hidden)]),
    "args_validator": lambda: FunctionToolset([Tool(act(), args_validator=never)]),
    "deferred": lambda: FunctionToolset([Tool(act(), defer_loading=True)]),
}


def serve(*toolsets: Any, name: str = "helper"):
    return lambda app: app.agent(Agent(name=name), toolsets=list(toolsets))


async def call(server: RunningServer, name: str = "act", **arguments: Any):
    return await server.post(f"/v1/tools/{name}", {"arguments": arguments})


async def listed(server: RunningServer, name: str = "act") -> dict[str, Any]:
    items = (await server.get("/v1/tools")).json()["items"]
    return next(item for item in items if item["name"] == name)


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
async def test_a_tool_behind_something_that_only_a_run_can_ask_is_not_called_without_a_run(sqlite_url, wrapped):
    async with running(sqlite_url, setup=serve(wrapped())) as server:
        answer = await call(server)
        assert (answer.status_code, answer.json()["code"]) == (422, "needs_run")
        assert made == []
        assert (await listed(server))["needs_run"] is True


SHOWN = {
    "plain": (plain, False, False),
    "marked": (lambda: FunctionToolset([act(approval=True)]), True, False),
    "marked for Pydantic AI": (lambda: FunctionToolset([Tool(act(), requires_approval=True)]), True, False),
    "always": (WRAPPED["approval"], True, False),
    "always, deeper": (lambda: CombinedToolset([ApprovalRequiredToolset(plain())]).prefixed("x"), True, False),
    "by call": (lambda: ApprovalRequiredToolset(plain(), lambda _ctx, _tool, args: bool(args)), False, True),
    "of their own": (WRAPPED["of their own"], False, True),
    "prepare": (WRAPPED["prepare"], False, True),
    "args_validator": (WRAPPED["args_validator"], False, True),
    "filtered": (WRAPPED["filtered"], False, False),
    "deferred": (WRAPPED["deferred"], False, False),
}


@pytest.mark.parametrize(("toolset", "always", "by_call"), SHOWN.values(), ids=SHOWN)
async def test_lists_of_tools_say_whether_a_person_is_asked(sqlite_url, toolset, always, by_call):
    async with running(sqlite_url, setup=serve(toolset())) as server:
        [item] = (await server.get("/v1/tools")).json()["items"]
        [of_agent] = (await server.get("/v1/agents/helper")).json()["tools"]
        for shown in (item, of_agent):
            assert (shown["approval"], shown["approval_by_call"], shown["four_eyes"]) == (always, by_call, False)


async def test_a_tool_that_asks_pydantic_ai_for_approval_is_not_called_without_a_run(sqlite_url):
    toolset = FunctionToolset([Tool(act(), requires_approval=True)])
    async with running(sqlite_url, setup=serve(toolset)) as server:
        answer = await call(server)
        assert (answer.status_code, answer.json()["code"]) == (409, "approval_required")
        assert made == []


@pytest.mark.parametrize(("error", "code"), [(ApprovalRequired, "approval_required"), (CallDeferred, "needs_run")])
async def test_a_tool_that_itself_asks_for_a_person_or_a_deferral_says_so_without_a_run(sqlite_url, error, code):
    @tool
    async def careful() -> None:
        raise error

    async with running(sqlite_url, setup=serve(FunctionToolset([careful]))) as server:
        assert (await call(server, "careful")).json()["code"] == code


async def test_plain_combined_prefixed_and_renamed_tools_are_called_without_a_run(database_url):
    toolset = CombinedToolset([plain()]).prefixed("shop").renamed({"acting": "shop_act"})
    async with running(database_url, setup=serve(toolset)) as server:
        answer = await call(server)
        assert (answer.status_code, answer.json()["result"], made) == (200, "acted", ["act"])
        assert (await listed(server))["needs_run"] is False


@pytest.mark.parametrize("strict_first", [True, False])
async def test_a_tool_that_one_agent_wraps_is_wrapped_for_all(sqlite_url, strict_first):
    function = act()
    both = [FunctionToolset([function]).filtered(lambda _ctx, _tool: True), FunctionToolset([function])]

    def setup(app: Pilothouse) -> None:
        for index, toolset in enumerate(both if strict_first else both[::-1]):
            app.agent(Agent(name=f"agent{index}"), toolsets=[toolset])

    async with running(sqlite_url, setup=setup) as server:
        assert (await call(server)).json()["code"] == "needs_run"


@pytest.mark.parametrize("strict_first", [True, False])
async def test_a_tool_that_needs_approval_for_one_agent_needs_it_for_all(sqlite_url, strict_first):
    function = act()
    both = [FunctionToolset([Tool(function, requires_approval=True)]), FunctionToolset([function])]

    def setup(app: Pilothouse) -> None:
        for index, toolset in enumerate(both if strict_first else both[::-1]):
            app.agent(Agent(name=f"agent{index}"), toolsets=[toolset])

    async with running(sqlite_url, setup=setup) as server:
        assert (await call(server)).json()["code"] == "approval_required"
        assert made == []


def test_the_stricter_of_two_policies_has_the_terms_of_both():
    plain = ToolPolicy(name="act")
    one = ToolPolicy(name="act", approval=True, scopes=("orders:write",), timeout_seconds=5)
    other = ToolPolicy(name="act", approval=True, four_eyes=True, scopes=("money:spend",), timeout_seconds=9)
    for policy in (stricter(one, other), stricter(other, one)):
        assert (policy.approval, policy.four_eyes, policy.timeout_seconds) == (True, True, 5)
        assert set(policy.scopes) == {"orders:write", "money:spend"}
    for policy in (stricter(one, plain), stricter(plain, one)):
        assert (policy.approval, policy.four_eyes, policy.timeout_seconds) == (True, False, 5)
        assert policy.scopes == ("orders:write",)


async def test_the_limit_of_a_toolset_holds_for_direct_calls(sqlite_url):
    async with running(sqlite_url, setup=serve(FunctionToolset([act()], timeout=7))) as server:
        assert (await listed(server))["timeout_seconds"] == 7


async def test_what_a_tool_raises_and_what_is_not_unicode_are_answered_as_problems(sqlite_url):
    @tool
    async def ends(_why: str) -> None:
        raise SystemExit(3)

    async with running(sqlite_url, setup=serve(FunctionToolset([ends]))) as server:
        for key in (None, "k1"):
            headers: dict[str, Any] = {"Idempotency-Key": key} if key else {}
            failed = await server.post("/v1/tools/ends", {"arguments": {"_why": "x"}}, **headers)
            assert (failed.status_code, failed.json()["code"]) == (502, "tool_failed")
        sent = b'{"arguments": {"_why": "\\ud800"}}'
        half = await server.http.post("/v1/tools/ends", content=sent, headers={"Content-Type": "application/JSON"})
        assert (half.status_code, half.json()["code"]) == (400, "invalid_json")


async def test_two_callers_with_the_same_key_do_not_meet_in_the_tool(sqlite_url):
    @tool(effect="idempotent")
    def pay() -> str:
        serving = current_tool_call()
        assert serving is not None
        return serving.idempotency_key

    async with running(sqlite_url, setup=serve(FunctionToolset([pay]))) as server:
        people = [server.person("alice", tenant="acme"), server.person("alice", tenant="globex")]
        people.append(server.person("bob", tenant="acme"))
        keys = []
        for person in people:
            answer = await person.post("/v1/tools/pay", {"arguments": {}}, **{"Idempotency-Key": "1"})
            keys.append(answer.json()["result"])
            await person.close()
        assert len(set(keys)) == 3


# --- in runs ---


def calls(*names: str) -> Script:
    return Script(
        rules=[
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name=name) for name in names]), times=1),
            Rule(when=When(after_tool=True), turn=Turn(text="{tool_result}")),
        ],
        turns=["Hello."],
    )


def rename(_ctx: RunContext[Any], tool_def: Any) -> Any:
    tool_def.name = "other"
    return tool_def


IN_RUNS = {
    "filtered": ("act", lambda function: FunctionToolset([function]).filtered(lambda _ctx, _tool: True)),
    "prepared": ("act", lambda function: FunctionToolset([function]).prepared(lambda _ctx, tools: tools)),
    "renamed by prepare": ("other", lambda function: FunctionToolset([Tool(function, prepare=rename)])),
    "prefixed": ("shop_act", lambda function: FunctionToolset([function]).prefixed("shop")),
}


@pytest.mark.parametrize(("name", "wrap"), IN_RUNS.values(), ids=IN_RUNS)
async def test_the_scopes_of_a_wrapped_tool_hold_in_runs(sqlite_url, name, wrap):
    toolset = wrap(act(scopes=["orders:write"]))
    async with running(sqlite_url, calls(name), setup=serve(toolset)) as server:
        answer = await server.chat("go")
        assert "forbidden" in answer["text"]
        assert made == []
        entitled = server.person("ada", scope=f"{ALL_SCOPES} orders:write")
        assert [step["effect"] for step in (await server.run(answer["run_id"]))["steps"] if step["kind"] == "tool"] == [
            "once"
        ]
        await entitled.close()


async def test_the_scopes_of_a_tool_known_only_in_runs_hold(sqlite_url):
    agent = Agent(name="helper")

    @agent.toolset
    def dynamic(_ctx: RunContext[Any]) -> FunctionToolset[Any]:
        return FunctionToolset([act(scopes=["orders:write"], effect="idempotent")])

    async with running(sqlite_url, calls("act"), agents=[agent]) as server:
        answer = await server.chat("go")
        assert "forbidden" in answer["text"]
        assert made == []
        [step] = [step for step in (await server.run(answer["run_id"]))["steps"] if step["kind"] == "tool"]
        assert step["effect"] == "idempotent"


async def through(ctx: RunContext[Any]) -> Any:
    """Call the other one."""
    assert ctx.tool_manager is not None
    return await ctx.tool_manager.handle_call(ToolCallPart("act", {}, tool_call_id="inner"))


@pytest.mark.parametrize(
    ("policy", "told"), [({}, "acted"), ({"scopes": ["orders:write"]}, "forbidden"), ({"approval": True}, "forbidden")]
)
async def test_the_rules_of_a_tool_hold_where_another_tool_calls_it(sqlite_url, policy, told):
    async with running(sqlite_url, calls("through"), setup=serve(FunctionToolset([act(**policy), through]))) as server:
        answer = await server.chat("go")
        assert told in answer["text"]
        assert made == (["act"] if told == "acted" else [])


async def test_the_approval_of_a_wrapped_tool_holds_in_runs(database_url):
    toolset = FunctionToolset([Tool(act(approval=True), prepare=rename)])
    async with running(database_url, calls("other"), setup=serve(toolset)) as server:
        waiting = await server.send("go")
        assert (waiting.status_code, made) == (202, [])


def careful() -> Any:
    async def act(ctx: RunContext[Any]) -> str:
        """Do it."""
        if not ctx.tool_call_approved:
            raise ApprovalRequired
        made.append("act")
        return "acted"

    return act


def asks(ctx: RunContext[Any]) -> None:
    if not ctx.tool_call_approved:
        raise ApprovalRequired


ASKING = {
    "toolset": lambda: ApprovalRequiredToolset(plain()),
    "tool": lambda: FunctionToolset([Tool(act(), requires_approval=True)]),
    "prepare": lambda: plain().prepared(mark_unapproved),
    "function": lambda: FunctionToolset([careful()]),
    "validator": lambda: FunctionToolset([Tool(act(), args_validator=asks)]),
}


def mark_unapproved(_ctx: RunContext[Any], tools: list[Any]) -> list[Any]:
    for item in tools:
        item.kind = "unapproved"
    return tools


@pytest.mark.parametrize("approve", [True, False])
@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
async def test_who_asks_pydantic_ai_for_approval_asks_a_person(database_url, asking, approve):
    async with running(database_url, calls("act"), setup=serve(asking())) as server:
        waiting = await server.send("go")
        assert waiting.status_code == 202, waiting.text
        assert made == []
        run_id = waiting.json()["run_id"]
        [item] = (await server.run(run_id))["waiting"]
        assert (item["name"], item["reason"]) == ("act", "approval")
        answer = await server.post(f"/v1/runs/{run_id}/input", {"call_id": item["call_id"], "approve": approve})
        assert answer.status_code == 202, answer.text
        events = await server.events(run_id)
        assert events[-1].type == "run.completed", events[-1]
        assert made == (["act"] if approve else [])
        assert ("acted" if approve else "rejected") in events[-1].data["text"]
        assert [event.type for event in events].count("approval.requested") == 1


@pytest.mark.parametrize("asking", ASKING.values(), ids=ASKING)
async def test_a_tool_that_asks_for_a_person_is_not_made_where_another_tool_calls_it(sqlite_url, asking):
    async with running(sqlite_url, calls("through"), setup=serve(asking(), FunctionToolset([through]))) as server:
        answer = await server.chat("go")
        assert made == []
        assert "approval" in answer["text"]
