"""`POST /v1/runs/{id}/fork`: what is kept is never asked for or computed again, and the next turn always works."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from tests.support.server import RunningServer, running

from pilothouse.app import Pilothouse
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

CALLS: list[tuple[str, str]] = []
GATES: list[asyncio.Event] = []


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@tool(effect="once")
async def refund(order_id: str) -> str:
    """Give money back."""
    CALLS.append(("refund", order_id))
    if order_id == "slow":
        await GATES[-1].wait()
    return f"refunded {order_id}"


@tool(effect="pure")
async def look(order_id: str) -> str:
    """Look an order up."""
    CALLS.append(("look", order_id))
    return f"order {order_id} is packed"


@tool(effect="once", approval=True)
async def close(order_id: str) -> str:
    """Close an order for good."""
    CALLS.append(("close", order_id))
    return "closed"


def rule(user: str, results: int, turn: Turn | ToolCall) -> Rule:
    turn = Turn(tool_calls=[turn]) if isinstance(turn, ToolCall) else turn
    return Rule(when=When(user_contains=user, tool_results=results), turn=turn)


SCRIPT = Script(
    rules=[
        rule("refund", 0, Turn(tool_calls=[call("look", order_id="7"), call("refund", order_id="7")])),
        rule("refund", 2, call("look", order_id="8")),
        rule("slowly", 0, Turn(tool_calls=[call("look", order_id="9"), call("refund", order_id="slow")])),
        rule("close", 0, call("close", order_id="1")),
        Rule(when=When(model="other"), turn=Turn(text="Other model: ({tool_results})")),
    ],
    turns=[Turn(text="Answer to {user} ({tool_results})")],
    models=("scripted", "other"),
)


def add_agents(app: Pilothouse) -> None:
    app.agent(Agent(name="support", tools=[refund, look, close]), default=True)
    app.agent(Agent(name="plain"))


@pytest.fixture
async def server(database_url):
    CALLS.clear()
    GATES.append(asyncio.Event())
    async with running(database_url, SCRIPT, setup=add_agents, models={"fork_allowed": ["openai:other"]}) as server:
        yield server


async def fork(server: RunningServer, run_id: str, *, key: str | None = None, **body: Any):
    headers = {"Idempotency_Key": key} if key else {}
    return await server.post(f"/v1/runs/{run_id}/fork", body, **headers)


async def forked(server: RunningServer, run_id: str, **body: Any) -> dict[str, Any]:
    """The forked run at its end."""
    response = await fork(server, run_id, **body)
    assert response.status_code == 202, response.text
    new = response.json()
    assert response.headers["Location"] == f"/v1/runs/{new['id']}"
    assert new["forked_from"] == run_id
    events = await server.events(new["id"])
    assert events[-1].type == "run.completed", events[-1]
    assert [event.place for event in events] == sorted({event.place for event in events})
    return await server.run(new["id"])


def check_whole(messages: list[dict[str, Any]]) -> None:
    calls = [call["call_id"] for message in messages for call in message["tool_calls"]]
    results = [message["call_id"] for message in messages if message["role"] == "tool"]
    assert sorted(calls) == sorted(results)


async def test_a_fork_after_a_step_keeps_its_results_and_asks_only_for_what_comes_next(server):
    first = await server.chat("refund 7")
    asked, made = len(server.provider.requests), list(CALLS)
    run = await forked(server, first["run_id"], from_step=1)
    assert run["text"] == first["text"]
    assert run["conversation_id"] != first["conversation_id"]
    assert CALLS[len(made) :] == [("look", "8")]
    assert len(server.provider.requests) == asked + 2
    assert [step["name"] for step in run["steps"] if step["attempt"] == 0] == ["scripted", "look", "refund"]
    assert run["usage"]["input_tokens"] < (await server.run(first["run_id"]))["usage"]["input_tokens"]
    messages = await server.messages(run["conversation_id"])
    check_whole(messages)
    original = await server.messages(first["conversation_id"])
    assert [message["text"] for message in messages] == [message["text"] for message in original]
    assert (await server.chat("thanks", conversation_id=run["conversation_id"]))["state"] == "completed"


@pytest.mark.parametrize("from_step", [None, 0])
async def test_a_fork_from_the_beginning_asks_everything_again_with_another_message(server, from_step):
    first = await server.chat("hello")
    run = await forked(server, first["run_id"], from_step=from_step, message="good evening")
    assert run["text"] == "Answer to good evening (0)"
    assert run["message"] == "good evening"
    again = await forked(server, first["run_id"])
    assert again["text"] == first["text"]


async def test_a_message_after_a_step_is_the_next_thing_the_user_says(server):
    first = await server.chat("refund 7")
    made = list(CALLS)
    run = await forked(server, first["run_id"], from_step=1, message="Wait, what was that?")
    assert run["text"] == "Answer to Wait, what was that? (0)"
    assert made == CALLS
    messages = await server.messages(run["conversation_id"])
    check_whole(messages)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user", "assistant"]


async def test_earlier_turns_come_along(server):
    first = await server.chat("refund 7")
    second = await server.chat("and now?", conversation_id=first["conversation_id"])
    third = await server.chat("bye", conversation_id=first["conversation_id"])
    run = await forked(server, third["run_id"], message="good night")
    messages = await server.messages(run["conversation_id"])
    check_whole(messages)
    texts = [message["text"] for message in messages if message["role"] == "assistant" and message["text"]]
    assert texts == [first["text"], second["text"], "Answer to good night (0)"]
    sent = server.provider.requests[-1].body["messages"]
    assert [item["role"] for item in sent if item["role"] == "user"] == ["user"] * 3
    again = await forked(server, run["id"], message="and a fork of the fork")
    assert again["text"].startswith("Answer to and a fork")


async def test_another_model_and_another_agent(server):
    first = await server.chat("refund 7")
    run = await forked(server, first["run_id"], from_step=1, model="openai:other")
    assert run["text"].startswith("Other model")
    assert server.provider.requests[-1].body["model"] == "other"
    run = await forked(server, first["run_id"], message="hello", agent="plain")
    assert run["agent"] == "plain"
    assert "tools" not in server.provider.requests[-1].body


async def test_calls_without_a_result_are_settled_and_never_made_again(server):
    async with server.stream("slowly") as stream:
        await stream.until("tool.finished")
        run = await forked(server, stream.run_id, from_step=1)
        messages = await server.messages(run["conversation_id"])
        check_whole(messages)
        assert "not known" in next(m["result"] for m in messages if m["name"] == "refund")
        assert CALLS.count(("refund", "slow")) == 1
        GATES[-1].set()
        assert (await stream.rest())[-1].type == "run.completed"


async def test_a_call_that_waits_for_a_person_is_not_made_in_the_fork(server):
    waiting = (await server.send("close it")).json()
    assert waiting["state"] == "awaiting_input"
    run = await forked(server, waiting["run_id"], from_step=1)
    check_whole(await server.messages(run["conversation_id"]))
    assert CALLS == []
    assert (await server.run(waiting["run_id"]))["state"] == "awaiting_input"


async def test_the_same_key_makes_one_fork(server):
    first = await server.chat("hello")
    answers = await asyncio.gather(*(fork(server, first["run_id"], key="k1", message="again") for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await fork(server, first["run_id"], key="k1", message="something else")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_wrong_forks_say_what_is_wrong(server):
    first = await server.chat("refund 7")
    run_id = first["run_id"]
    answers = {
        "no_such_step": await fork(server, run_id, from_step=99),
        "not_a_model_step": await fork(server, run_id, from_step=2),
        "nothing_to_continue": await fork(server, run_id, from_step=6),
        "model_not_allowed": await fork(server, run_id, model="anthropic-nonsense"),
        "agent_not_found": await fork(server, run_id, agent="nobody"),
        "run_not_found": await server.person("eve").post(f"/v1/runs/{run_id}/fork", {}),
        "missing_scope": await server.person("ada", scope="runs:read").post(f"/v1/runs/{run_id}/fork", {}),
    }
    assert {code: answer.json()["code"] for code, answer in answers.items()} == {code: code for code in answers}
    assert [answer.status_code for answer in answers.values()] == [422, 422, 422, 422, 404, 404, 403]
    assert (await forked(server, run_id, from_step=6, message="more"))["state"] == "completed"


async def test_a_step_that_is_not_reached_yet_is_a_conflict(server):
    async with server.stream("slowly") as stream:
        await stream.until("tool.finished")
        answer = await fork(server, stream.run_id, from_step=4)
        assert (answer.status_code, answer.json()["code"]) == (409, "step_not_reached")
        GATES[-1].set()
        await stream.rest()
