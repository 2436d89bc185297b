"""`POST /v1/chat` and `/v1/chat/stream`: what they take and what they give."""

import asyncio
import base64
import json

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent
from tests.support.server import running

from pilothouse.testing.provider import Script, ToolCall, Turn

HELLO = Script(turns=["Hello."])
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class City(BaseModel):
    name: str
    people: int


@pytest.mark.parametrize(
    "message",
    [
        "a",
        "x" * 10_000,
        "👩‍👩‍👧‍👦🏴‍☠️" * 100,
        "שלום مرحبا",
        "\u202eevil\u202c",
        "line\nbreak\ttab",
        "'; DROP TABLE runs;--",
        "\ufeff\u0001x",
    ],
    ids=lambda text: ascii(text)[:12],
)
async def test_any_text_arrives_at_the_model_as_it_was_sent(database_url, message):
    async with running(database_url, HELLO) as server:
        answer = await server.chat(message)
        assert server.provider.requests[0].body["messages"][-1]["content"] == message
        assert (await server.messages(answer["conversation_id"]))[0]["text"] == message
        assert (await server.run(answer["run_id"]))["message"] == message


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"message": "x" * 10_001}, 422),
        ({"message": ""}, 422),
        ({"message": " \n\t\u2003"}, 422),
        ({"message": None}, 422),
        ({}, 422),
        ({"message": "hi", "extra": 1}, 422),
        ({"message": "hi", "on_busy": "push"}, 422),
        ({"message": "hi", "conversation_id": "nonsense"}, 422),
        ({"message": "hi", "conversation_id": "conv_0000"}, 404),
        ({"message": "hi", "agent": "nobody"}, 404),
        ({"message": "hi", "context": {"a": "x" * 40_000}}, 422),
        ({"message": "hi", "attachments": [{"media_type": "image/png", "data": "!!!"}]}, 422),
        ({"message": "hi", "attachments": [{"media_type": "video/mp4", "data": PNG}]}, 422),
        ({"message": "hi", "attachments": [{"media_type": "image/png", "data": PNG}] * 11}, 422),
    ],
    ids=lambda item: str(item)[:40],
)
async def test_a_request_that_is_wrong_is_refused_and_starts_nothing(sqlite_url, body, status):
    async with running(sqlite_url, HELLO) as server:
        for path in ("/v1/chat", "/v1/chat/stream"):
            response = await server.post(path, body)
            assert response.status_code == status, response.text
            assert response.headers["content-type"] == "application/problem+json"
        assert (await server.get("/v1/runs")).json()["items"] == []
        assert server.provider.requests == []


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b'{"message": "a\\u0000b"}', {422}),
        (b'{"message": "a\\ud800b"}', {400, 422}),
        (b'{"message": "hi", "context": {"x": 1e999}}', {400, 422, 200}),
        (b'{"message": "hi", "context": {"x": NaN}}', {400, 422, 200}),
        (b'{"message": "hi", "context": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}", {400, 422}),
        (b'{"message": "hi", "context": {"x": ' + b"9" * 5000 + b"}}", {400, 422, 200}),
        (b'{"message": "hi", "message": "ho"}', {200, 422}),
        (b"\xff\xfe", {400, 422}),
        (b"[]", {422}),
        (b"", {422, 400}),
        (b"{", {400, 422}),
    ],
    ids=lambda item: repr(item)[:40],
)
async def test_hostile_json_is_refused_or_served_but_never_a_servers_error(database_url, raw, statuses):
    async with running(database_url, HELLO) as server:
        response = await server.http.post("/v1/chat", content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code in statuses, response.text
        if response.status_code == 200:
            assert (await server.run(response.json()["run_id"]))["state"] == "completed"


async def test_a_body_that_is_too_large_is_refused_declared_or_not(sqlite_url):
    async with running(sqlite_url, HELLO) as server:
        big = json.dumps({"message": "hi", "context": {"x": "y" * 1_100_000}}).encode()
        headers = {"Content-Type": "application/json"}
        declared = await server.http.post("/v1/chat", content=big, headers=headers)
        assert (declared.status_code, declared.json()["code"]) == (413, "too_large")

        async def chunks():
            for start in range(0, len(big), 100_000):
                yield big[start : start + 100_000]

        chunked = await server.http.post("/v1/chat", content=chunks(), headers=headers)
        assert (chunked.status_code, chunked.json()["code"]) == (413, "too_large")
        assert (await server.chat("hi"))["state"] == "completed"


async def test_an_image_reaches_the_model_and_stays_in_the_conversation(database_url):
    async with running(database_url, HELLO) as server:
        answer = await server.chat(
            "what is this?", attachments=[{"media_type": "image/png", "data": PNG, "name": "x.png"}]
        )
        content = server.provider.requests[0].body["messages"][-1]["content"]
        assert content[0] == {"type": "text", "text": "what is this?"}
        assert content[1]["type"] == "image_url"
        assert content[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
        [message, _] = await server.messages(answer["conversation_id"])
        [shown] = message["attachments"]
        assert shown == {"id": shown["id"], "media_type": "image/png", "name": "x.png", "bytes": 48}
        await server.chat("and again?", conversation_id=answer["conversation_id"])
        assert server.provider.requests[1].body["messages"][0]["content"][1] == content[1]


async def test_an_attachment_over_the_limit_is_refused(sqlite_url):
    async with running(sqlite_url, HELLO, runs={"attachment_bytes": 40}) as server:
        response = await server.send("hi", attachments=[{"media_type": "image/png", "data": PNG}])
        assert (response.status_code, response.json()["code"]) == (413, "attachment_too_large")


async def test_an_agent_with_a_structured_answer_gives_it_validated(database_url):
    agent = Agent(name="cities", output_type=City)
    turns = [
        Turn(tool_calls=[ToolCall(name="final_result", arguments={"name": "Oslo", "people": "many"})]),
        Turn(tool_calls=[ToolCall(name="final_result", arguments={"name": "Oslo", "people": 700_000})]),
    ]
    async with running(database_url, Script(turns=turns), agents=[agent]) as server:
        answer = await server.chat("Oslo?")
        assert answer["output"] == {"name": "Oslo", "people": 700_000}
        assert (await server.run(answer["run_id"]))["output"] == answer["output"]
        events = await server.events(answer["run_id"])
        assert events[-1].data["output"] == answer["output"]
        assert len(server.provider.requests) == 2


async def test_which_agent_answers_must_be_clear(sqlite_url):
    async with running(sqlite_url, HELLO, agents=[Agent(name="one"), Agent(name="two")]) as server:
        response = await server.send("hi")
        assert (response.status_code, response.json()["code"]) == (422, "agent_required")
        one = await server.chat("hi", agent="one")
        assert (await server.chat("hi", conversation_id=one["conversation_id"]))["agent"] == "one"


async def test_the_answer_says_what_it_took(database_url):
    script = Script(turns=[Turn(text="Hello.", usage={"input": 31, "output": 7, "cached": 3})])
    async with running(database_url, script) as server:
        answer = await server.chat("hi")
        assert answer["usage"] == {"input_tokens": 31, "output_tokens": 7, "cached_tokens": 3}
        run = await server.run(answer["run_id"])
        assert run["usage"] == answer["usage"]
        assert run["steps"][0]["kind"] == "model"
        assert answer["latency_ms"] >= 0


async def test_a_whole_answer_and_a_streamed_one_tell_the_same(database_url):
    async with running(database_url, Script(turns=[Turn(text="The answer, at some length.")])) as server:
        whole = await server.chat("hi")
        async with server.stream("hi") as stream:
            events = await stream.rest()
        text = "".join(event.data["text"] for event in events if event.type == "text.delta")
        assert text == whole["text"] == events[-1].data["text"]
        facts = [event.type for event in events if event.type != "text.delta"]
        assert facts == [event.type for event in await server.events(whole["run_id"]) if event.type != "text.delta"]
        for event in events:
            assert event.data["type"] == event.type
            assert event.data["run_id"] == stream.run_id


async def test_two_people_at_once_get_their_own_answers(database_url):
    script = Script(turns=[Turn(text="to {user}", first_token_delay=0.01)])
    async with running(database_url, script) as server:
        answers = await asyncio.gather(*(server.chat(f"person {n}") for n in range(30)))
        assert [answer["text"] for answer in answers] == [f"to person {n}" for n in range(30)]
        assert len({answer["conversation_id"] for answer in answers}) == 30
