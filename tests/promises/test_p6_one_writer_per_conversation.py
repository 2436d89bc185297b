"""P6: concurrent messages to one conversation follow a policy and never interleave."""

import asyncio
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from sqlalchemy import Connection
from sqlalchemy.util import await_only
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.node import Node
from tests.support.server import running

from pilothouse.runs.admit import _admit, _user_message
from pilothouse.runs.events import START
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When

HOLD = ToolCall(name="hold", arguments={"name": "x"})


def turns_of(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Messages by run, in the order of the transcript."""
    turns: list[list[dict[str, Any]]] = []
    for message in messages:
        if turns and turns[-1][0]["run_id"] == message["run_id"]:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


async def test_a_second_message_is_rejected_by_default_and_told_what_is_active(database_url):
    tools = Tools()
    async with running(database_url, calling(HOLD), setup=tools.agent()) as server, server.stream("go") as first:
        await tools.entered.wait()
        response = await server.send("me too", conversation_id=first.conversation_id)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (409, "conversation_busy")
        assert problem["active_run_id"] == first.run_id
        assert problem["retryable"] is True
        assert len(await server.messages(first.conversation_id)) == 2
        tools.go_on.set()
        await first.rest()
        assert (await server.send("me too", conversation_id=first.conversation_id)).status_code == 200


async def test_queued_messages_are_answered_in_the_order_they_came(database_url):
    tools = Tools()
    script = Script(rules=calling(HOLD).rules, turns=[Turn(text="answer to {user}")])
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as first:
        await tools.entered.wait()
        conversation = first.conversation_id
        waiting = []
        for number in range(4):
            waiting.append(
                asyncio.create_task(server.send(f"m{number}", conversation_id=conversation, on_busy="queue"))
            )
            while len((await server.get("/v1/runs", state="queued")).json()["items"]) <= number:
                await asyncio.sleep(0)
        tools.go_on.set()
        answers = [(await task).json() for task in waiting]
        assert [answer["text"] for answer in answers] == [f"answer to m{number}" for number in range(4)]
        messages = await server.messages(conversation)
        assert [m["text"] for m in messages if m["role"] == "user"] == ["go", "m0", "m1", "m2", "m3"]
        asked = [request.body["messages"][-1] for request in server.provider.requests if request.body][2:]
        assert [item["content"] for item in asked] == ["m0", "m1", "m2", "m3"]


async def test_the_queue_of_a_conversation_is_bounded(database_url):
    tools = Tools()
    async with (
        running(database_url, calling(HOLD), setup=tools.agent(), runs={"queue_length": 2}) as server,
        server.stream("go") as first,
    ):
        await tools.entered.wait()
        body = {"message": "next", "conversation_id": first.conversation_id, "on_busy": "queue"}
        async with (
            server.session.post("/v1/chat/stream", json=body),
            server.session.post("/v1/chat/stream", json=body),
        ):
            response = await server.send(**body)
            assert (response.status_code, response.json()["code"]) == (429, "conversation_queue_full")
            tools.go_on.set()
            await first.rest()


async def test_an_interrupt_stops_what_runs_and_what_waits_and_goes_first(database_url):
    tools = Tools()
    async with running(database_url, calling(HOLD), setup=tools.agent()) as server:
        async with server.stream("go") as first:
            await tools.entered.wait()
            conversation = first.conversation_id
            async with server.stream("waits", conversation_id=conversation, on_busy="queue") as second:
                answer = await server.chat("stop that", conversation_id=conversation, on_busy="interrupt")
                assert answer["text"] == "next turn works"
                assert (await first.rest())[-1].type == "run.cancelled"
                assert [event.type for event in await second.rest()] == ["run.queued", "run.cancelled"]
                assert first.events[-1].data["reason"] == f"interrupted by {answer['run_id']}"
        # The model was asked for the first and the last only: what waited never began.
        assert len(server.provider.requests) == 2


async def test_twenty_messages_at_once_never_interleave(database_url):
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="done with {user}")),
            Rule(when=When(user_contains="m"), turn=Turn(tool_calls=[ToolCall(name="quick"), ToolCall(name="quick")])),
        ],
        turns=["first"],
    )
    async with running(database_url, script, setup=Tools().agent()) as server:
        conversation = (await server.chat("hello"))["conversation_id"]
        people = [server.send(f"m{n}", conversation_id=conversation, on_busy="queue") for n in range(20)]
        answers = [response.json() for response in await asyncio.gather(*people)]
        assert [answer["text"] for answer in answers] == [f"done with m{n}" for n in range(20)]
        turns = turns_of(await server.messages(conversation) + await _second_page(server, conversation))
        assert len(turns) == 21
        assert all(
            [m["role"] for m in turn] == ["user", "assistant", "tool", "tool", "assistant"] for turn in turns[1:]
        )
        assert len({turn[0]["run_id"] for turn in turns}) == 21


async def _second_page(server, conversation: str) -> list[dict[str, Any]]:
    page = (await server.get(f"/v1/conversations/{conversation}/messages", limit=100)).json()
    if page["next_cursor"] is None:
        return []
    path = f"/v1/conversations/{conversation}/messages"
    return (await server.get(path, limit=100, cursor=page["next_cursor"])).json()["items"]


async def test_messages_with_every_policy_at_once_leave_a_whole_conversation(database_url):
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="done with {user}")),
            Rule(when=When(user_contains="m"), turn=Turn(tool_calls=[ToolCall(name="quick")])),
        ],
        turns=["first"],
    )
    async with running(database_url, script, setup=Tools().agent()) as server:
        conversation = (await server.chat("hello"))["conversation_id"]
        policies = ["queue", "interrupt", "reject"] * 5
        sent = [server.send(f"m{n}", conversation_id=conversation, on_busy=policy) for n, policy in enumerate(policies)]
        async with asyncio.timeout(30):
            responses = await asyncio.gather(*sent)
        assert {response.status_code for response in responses} <= {200, 409}, [r.text for r in responses]
        for response, policy in zip(responses, policies, strict=True):
            if response.status_code == 409:
                assert policy == "reject"
        states = {r["state"] for r in (await server.get("/v1/runs", limit=100)).json()["items"]}
        assert states <= {"completed", "cancelled"}
        messages = await server.messages(conversation)
        calls = [(m["run_id"], call["call_id"]) for m in messages for call in m["tool_calls"]]
        assert sorted(calls) == sorted((m["run_id"], m["call_id"]) for m in messages if m["role"] == "tool")
        assert len(turns_of(messages)) == len({m["run_id"] for m in messages})
        assert (await server.chat("m last", conversation_id=conversation))["text"] == "done with m last"


async def test_different_conversations_do_not_wait_for_each_other(database_url):
    tools = Tools()
    async with running(database_url, calling(HOLD), setup=tools.agent()) as server, server.stream("go") as first:
        await tools.entered.wait()
        assert (await server.chat("another"))["state"] == "completed"
        tools.go_on.set()
        await first.rest()


async def test_a_new_conversation_of_one_agent_is_not_continued_by_another(database_url):
    agents = [Agent(name="one"), Agent(name="two")]
    async with running(database_url, Script(turns=["Hello."]), agents=agents) as server:
        conversation = (await server.chat("hi", agent="one"))["conversation_id"]
        assert (await server.chat("hi", conversation_id=conversation))["agent"] == "one"


async def test_a_message_queued_in_the_instant_the_active_run_ends_is_started_by_its_end(database):
    """Nobody looks for it later: this node has no reaper."""
    answered, admitted, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        await answered.wait()
        return ModelResponse(parts=[TextPart("done")])

    async with Node(database, Agent(FunctionModel(answer), name="helper")) as node:
        first = await node.start("one")
        second = node.new("two", conversation_id=first.conversation_id, on_busy="queue")

        def slow_admission(connection: Connection) -> str:
            message = _user_message(second)
            made = _admit(connection, second, message=message, owner="x", queue_length=3, forked_from=None)
            admitted.set()
            if connection.dialect.name == "postgresql":  # SQLite has one writer: there is no such instant
                await_only(go_on.wait())
            return made.run_id

        admission = asyncio.create_task(database.write(slow_admission))
        await admitted.wait()
        answered.set()
        await asyncio.sleep(0.2)
        go_on.set()
        run_id = await admission
        async with asyncio.timeout(10):
            await first.task
            async for batch in node.follower.follow(run_id, START):
                last = batch[-1]
        assert last.type == "run.completed"
