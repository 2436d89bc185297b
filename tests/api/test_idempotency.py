"""`Idempotency-Key`: the same request, however often it is sent, is one run with one answer."""

import asyncio
from typing import Any

import pytest
from tests.promises.test_p5_stop_means_stopped import Tools
from tests.support.server import running

from pilothouse.testing.provider import ErrorReply, Rule, Script, ToolCall, Turn, When

CALLS = Script(
    rules=[
        Rule(when=When(after_tool=True), turn=Turn(text="answered", gate="answer")),
        Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name="quick"), ToolCall(name="nosuch")])),
    ],
    turns=["Hello."],
)


async def test_a_hundred_copies_at_once_are_one_run_and_get_one_answer(database_url):
    async with running(database_url, CALLS, setup=Tools().agent()) as server:
        copies = [asyncio.create_task(server.send("go", key="k")) for _ in range(100)]
        await server.provider.wait_for_gate("answer")
        server.provider.release("answer")
        responses = await asyncio.gather(*copies)
        assert {response.status_code for response in responses} == {200}
        answers = [response.json() for response in responses]
        assert all(answer == answers[0] for answer in answers), _differences(answers)
        assert len((await server.get("/v1/runs")).json()["items"]) == 1
        assert len(server.provider.requests) == 2
        assert await server.chat("go", key="k") == answers[0]


def _differences(answers: list[dict[str, Any]]) -> set[str]:
    return {name for answer in answers for name in answer if answer[name] != answers[0][name]}


async def test_a_key_with_another_body_is_refused(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        await server.chat("hi", key="k")
        for body in ({"message": "ho"}, {"message": "hi", "context": {"a": 1}}):
            response = await server.send(key="k", **body)
            assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
        stream = await server.post("/v1/chat/stream", {"message": "hi"}, idempotency_key="k")
        assert stream.status_code == 422
        assert len((await server.get("/v1/runs")).json()["items"]) == 1


async def test_streams_with_the_same_key_follow_the_same_run(database_url):
    async with running(database_url, CALLS, setup=Tools().agent()) as server:
        async with server.stream("go", key="k") as one, server.stream("go", key="k") as two:
            assert one.run_id == two.run_id
            server.provider.release("answer")
            first, second = await one.rest(), await two.rest()
        assert [e.type for e in first if e.type != "text.delta"] == [e.type for e in second if e.type != "text.delta"]
        async with server.stream("go", key="k") as later:
            assert later.run_id == one.run_id
            assert (await later.rest())[-1] == first[-1]


async def test_a_failed_run_is_replayed_as_it_failed(database_url):
    script = Script(turns=[Turn(error=ErrorReply(status=401))])
    async with running(database_url, script) as server:
        first, second = await server.send("hi", key="k"), await server.send("hi", key="k")
        assert first.status_code == second.status_code
        one, two = first.json(), second.json()
        assert {**one, "request_id": ""} == {**two, "request_id": ""}
        assert len(server.provider.requests) == 1


async def test_a_request_that_was_refused_does_not_use_its_key_up(database_url):
    tools = Tools()
    script = Script(
        rules=[
            Rule(
                when=When(user_contains="go"),
                turn=Turn(tool_calls=[ToolCall(name="hold", arguments={"name": "x"})]),
                times=1,
            )
        ],
        turns=["Hello."],
    )
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as busy:
        await tools.entered.wait()
        body = {"message": "me", "conversation_id": busy.conversation_id}
        assert (await server.send(key="k", **body)).status_code == 409
        tools.go_on.set()
        await busy.rest()
        assert (await server.send(key="k", **body)).status_code == 200


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_is_none_is_refused(sqlite_url, key):
    async with running(sqlite_url, Script(turns=["Hello."])) as server:
        response = await server.send("hi", key=key)
        assert response.status_code == 400
