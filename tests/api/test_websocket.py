"""`WS /v1/chat/ws/{conversation_id}`."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.server import running, token_for

from pilothouse.testing.provider import Script, ToolCall, Turn

HELLO = Script(turns=[Turn(text="Hello, {user}.")])


async def frames_until(socket: aiohttp.ClientWebSocketResponse, *kinds: str) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    async with asyncio.timeout(15):
        while not frames or frames[-1]["type"] not in kinds:
            message = await socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            frames.append(json.loads(message.data))
    return frames


async def test_several_messages_over_one_socket_are_one_conversation(database_url):
    async with running(database_url, HELLO) as server, server.session.ws_connect("/v1/chat/ws/new") as socket:
        for name in ("Ada", "Bob", "Eve"):
            await socket.send_json({"type": "message", "message": name})
            frames = await frames_until(socket, "run.completed")
            assert frames[-1]["data"]["text"] == f"Hello, {name}."
            text = "".join(frame["data"]["text"] for frame in frames if frame["type"] == "text.delta")
            assert text == f"Hello, {name}."
        [conversation] = (await server.get("/v1/conversations")).json()["items"]
        assert conversation["turns"] == 3


async def test_a_run_is_cancelled_over_the_socket(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server:
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "cancel"})
            [error] = await frames_until(socket, "error")
            assert error["error"]["code"] == "nothing_to_cancel"
            await socket.send_json({"type": "message", "message": "go"})
            await tools.entered.wait()
            await socket.send_json({"type": "ping"})
            await frames_until(socket, "pong")
            await socket.send_json({"type": "cancel"})
            frames = await frames_until(socket, "run.cancelled")
            assert frames[-1]["data"]["took_effect"][0]["tool"] == "hold"
        assert tools.cancelled.is_set()


async def test_a_cancel_holds_though_its_sender_leaves_at_once(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server:
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "go"})
            await tools.entered.wait()
            [run] = (await server.get("/v1/runs")).json()["items"]
            await socket.send_json({"type": "cancel"})
        async with asyncio.timeout(10):
            assert (await server.events(run["id"]))[-1].type == "run.cancelled"


async def test_a_run_is_followed_again_from_where_the_socket_broke(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server:
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "go"})
            seen = await frames_until(socket, "tool.started")
        tools.go_on.set()
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "resume", "run_id": seen[-1]["run_id"], "after": seen[-1]["id"]})
            rest = await frames_until(socket, "run.completed")
        places = [tuple(map(int, frame["id"].split("-"))) for frame in [*seen, *rest]]
        assert places == sorted(set(places))


@pytest.mark.parametrize("policy", ["continue", "cancel"])
async def test_leaving_stops_the_runs_that_were_to_stop_then(database_url, policy):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server:
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "go", "on_disconnect": policy})
            seen = await frames_until(socket, "tool.started")
            await tools.entered.wait()
        if policy == "continue":
            tools.go_on.set()
        async with asyncio.timeout(10):
            events = await server.events(seen[0]["run_id"])
        assert events[-1].type == {"continue": "run.completed", "cancel": "run.cancelled"}[policy]


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[]", "null", '"x"', '{"type": "nonsense"}', '{"type": "message"}', '{"type": "message", "message": " "}',
     '{"type": "message", "message": "a\\u0000b"}', '{"type": "message", "message": "a\\ud800b"}',
     '{"type": "ping", "more": 1}', '{"type": "resume", "run_id": "run_x"}',
     '{"type": "resume", "run_id": "r", "after": "z"}',
     '{"type": "cancel", "run_id": "run_x"}', '{"type": "message", "message": "hi", "conversation_id": "conv_x"}',
     "[" * 5000, '{"type": "message", "message": "' + "x" * 70_000 + '"}'],
    ids=lambda text: text[:30],
)  # fmt: skip
async def test_a_bad_frame_is_answered_and_the_socket_goes_on(sqlite_url, frame):
    async with (
        running(sqlite_url, HELLO, server={"console": False, "max_message_bytes": 65_536}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        await socket.send_str(frame)
        [error] = await frames_until(socket, "error")
        assert error["error"]["status"] in (400, 404, 413, 422)
        await socket.send_json({"type": "message", "message": "Ada"})
        assert (await frames_until(socket, "run.completed"))[-1]["data"]["text"] == "Hello, Ada."


async def test_who_may_open_a_socket(sqlite_url):
    async with running(sqlite_url, HELLO) as server:
        nobody = server.nobody()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await nobody.session.ws_connect("/v1/chat/ws/new")
        assert refused.value.status == 401
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await server.session.ws_connect("/v1/chat/ws/new", origin="https://evil.example")
        assert refused.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await server.session.ws_connect("/v1/chat/ws/conv_nosuch")
        assert refused.value.status == 404
        mine = (await server.chat("hi"))["conversation_id"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await server.person("bob").session.ws_connect(f"/v1/chat/ws/{mine}")
        assert refused.value.status == 404
        protocols = ("pilothouse", f"bearer.{token_for('ada')}")
        async with nobody.session.ws_connect("/v1/chat/ws/new", protocols=protocols, origin=server.url) as socket:
            assert socket.protocol == "pilothouse"
            await socket.send_json({"type": "ping"})
            assert await frames_until(socket, "pong") == [{"type": "pong"}]


async def test_a_message_that_is_sent_again_with_its_key_makes_no_second_run(database_url):
    """On the same socket, on one that was opened anew for the conversation, and by HTTP."""
    async with running(database_url, HELLO) as server:
        first = {"type": "message", "message": "Ada", "idempotency_key": "first"}
        second = {"type": "message", "message": "Bob", "idempotency_key": "second"}
        runs: dict[str, set[str]] = {"first": set(), "second": set()}
        texts: dict[str, set[str]] = {"first": set(), "second": set()}

        async def say(socket: aiohttp.ClientWebSocketResponse, frame: dict[str, Any]) -> None:
            await socket.send_json(frame)
            frames = await frames_until(socket, "run.completed", "error")
            assert frames[-1]["type"] == "run.completed", frames[-1]
            assert frames[0]["id"] == "1-1"
            runs[frame["idempotency_key"]].add(frames[-1]["run_id"])
            texts[frame["idempotency_key"]].add(frames[-1]["data"]["text"])

        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            for frame in (first, second, first, second):
                await say(socket, frame)
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await say(socket, first)
        [conversation] = (await server.get("/v1/conversations")).json()["items"]
        async with server.session.ws_connect(f"/v1/chat/ws/{conversation['id']}") as socket:
            await say(socket, first)
            await say(socket, second)
        async with server.stream("Ada", key="first") as stream:
            runs["first"].add(stream.run_id)
            await stream.rest()
        assert {name: len(ids) for name, ids in runs.items()} == {"first": 1, "second": 1}
        assert texts == {"first": {"Hello, Ada."}, "second": {"Hello, Bob."}}
        assert len((await server.get("/v1/runs")).json()["items"]) == 2


async def test_a_key_for_another_message_or_in_another_conversation_is_refused(database_url):
    async with running(database_url, HELLO) as server:
        frame = {"type": "message", "message": "Ada", "idempotency_key": "k"}
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json(frame)
            await frames_until(socket, "run.completed")
            for changed in ({"message": "Bob"}, {"context": {"a": 1}}, {"on_busy": "queue"}):
                await socket.send_json({**frame, **changed})
                [error] = await frames_until(socket, "error")
                assert (error["error"]["status"], error["error"]["code"]) == (422, "idempotency_key_reused")
        other = (await server.post("/v1/conversations", {})).json()["id"]
        async with server.session.ws_connect(f"/v1/chat/ws/{other}") as socket:
            await socket.send_json(frame)
            [error] = await frames_until(socket, "error")
            assert error["error"]["code"] == "idempotency_key_reused"
        for key in ("", "x" * 256, "é", "a\tb"):
            async with server.session.ws_connect("/v1/chat/ws/new") as socket:
                await socket.send_json({**frame, "idempotency_key": key})
                [error] = await frames_until(socket, "error")
                assert error["error"]["code"] == "bad_idempotency_key"
        assert len((await server.get("/v1/runs")).json()["items"]) == 1


async def test_a_message_sent_again_while_its_run_is_followed_brings_no_event_twice(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with (
        running(database_url, script, setup=tools.agent()) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        frame = {"type": "message", "message": "go", "idempotency_key": "k"}
        await socket.send_json(frame)
        seen = await frames_until(socket, "tool.started")
        await tools.entered.wait()
        await socket.send_json(frame)
        await socket.send_json({"type": "ping"})
        seen += await frames_until(socket, "pong")
        tools.go_on.set()
        seen += await frames_until(socket, "run.completed")
        places = [tuple(map(int, frame["id"].split("-"))) for frame in seen if frame["type"] != "pong"]
        assert places == sorted(set(places))
        assert places[0] == (1, 1)
