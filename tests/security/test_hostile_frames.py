"""What a client of a WebSocket sends, and how many connections it opens, costs a bounded amount."""

import asyncio
import gc
import json
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import pytest
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.server import ALL_SCOPES, Person, RunningServer, running, token_for

from pilothouse.kit.token_bucket import TokenBucket
from pilothouse.testing.provider import Script, ToolCall, Turn

HELLO = Script(turns=[Turn(text="Hello, {user}.")])
HOLD = calling(ToolCall(name="hold", arguments={"name": "x"}))


async def frame(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    async with asyncio.timeout(30):
        message = await socket.receive()
    assert message.type is aiohttp.WSMsgType.TEXT, message
    return json.loads(message.data)


async def frame_of(socket: aiohttp.ClientWebSocketResponse, *kinds: str) -> dict[str, Any]:
    while (found := await frame(socket))["type"] not in kinds:
        continue
    return found


async def frames_to_the_end(socket: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        async for message in socket:
            found.append(json.loads(message.data))
    return found


def tasks_in_memory() -> int:
    gc.collect()
    return sum(isinstance(thing, asyncio.Task) for thing in gc.get_objects())


# --- frames


async def test_cancels_of_invented_runs_are_answered_and_keep_nothing(database_url):
    async with (
        running(database_url, HELLO, server={"max_frames_per_second": 100_000}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        await socket.send_json({"type": "ping"})
        await frame_of(socket, "pong")
        before = tasks_in_memory()
        for number in range(100):
            await socket.send_json({"type": "cancel", "run_id": f"run_invented{number}"})
            await socket.send_json({"type": "resume", "run_id": f"run_invented{number}"})
            assert [(await frame(socket))["error"]["code"] for _ in range(2)] == ["run_not_found"] * 2
        assert tasks_in_memory() - before < 30


async def test_a_cancel_that_is_repeated_joins_the_one_going_on(database_url):
    tools = Tools()
    async with (
        running(database_url, HOLD, setup=tools.agent(), server={"max_frames_per_second": 100_000}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        await socket.send_json({"type": "message", "message": "go"})
        await tools.entered.wait()
        asked: list[str] = []
        cancel = server.services.runs.cancel

        async def counted(principal: Any, run_id: str, **options: Any) -> Any:
            asked.append(run_id)
            return await cancel(principal, run_id, **options)

        server.services.runs.cancel = counted  # pyright: ignore[reportAttributeAccessIssue]
        for _ in range(100):
            await socket.send_json({"type": "cancel"})
        await frame_of(socket, "run.cancelled")
        assert len(asked) == 1


async def test_a_socket_follows_a_bounded_number_of_runs_however_it_asks(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent(), runs={"queue_length": 30}) as server:
        runs: list[str] = []
        first = await server.post("/v1/conversations", {"agent": "helper"})
        for _ in range(22):
            async with server.stream("go", conversation_id=first.json()["id"], on_busy="queue") as stream:
                runs.append(stream.run_id)
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            for run_id in runs:
                await socket.send_json({"type": "resume", "run_id": run_id})
            refused = [(await frame_of(socket, "error"))["error"] for _ in range(2)]
            assert [(error["status"], error["code"]) for error in refused] == [(429, "too_many_runs")] * 2
            await socket.send_json({"type": "resume", "run_id": runs[0]})  # one that is followed takes no more room
            await socket.send_json({"type": "ping"})
            assert (await frame_of(socket, "error", "pong"))["type"] == "pong"
        for run_id in reversed(runs):
            await server.cancel(run_id)


async def test_a_socket_starts_no_more_runs_than_it_may_follow(database_url):
    tools = Tools()
    async with (
        running(database_url, HOLD, setup=tools.agent(), runs={"queue_length": 30}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        await socket.send_json({"type": "message", "message": "go"})
        await tools.entered.wait()
        for _ in range(20):
            await socket.send_json({"type": "message", "message": "go", "on_busy": "queue"})
        error = (await frame_of(socket, "error"))["error"]
        assert (error["status"], error["code"]) == (429, "too_many_runs")
        runs = (await server.get("/v1/runs", limit=100)).json()["items"]
        assert len(runs) == 20
        for run in runs:
            await server.cancel(run["id"])


async def test_a_socket_stops_a_bounded_number_of_runs_at_once(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent(), runs={"queue_length": 30}) as server:
        first = await server.post("/v1/conversations", {"agent": "helper"})
        runs: list[str] = []
        for _ in range(22):
            async with server.stream("go", conversation_id=first.json()["id"], on_busy="queue") as stream:
                runs.append(stream.run_id)
        cancel, go_on = server.services.runs.cancel, asyncio.Event()

        async def slow(principal: Any, run_id: str, **options: Any) -> Any:
            await go_on.wait()
            return await cancel(principal, run_id, **options)

        server.services.runs.cancel = slow  # pyright: ignore[reportAttributeAccessIssue]
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            for run_id in reversed(runs):
                await socket.send_json({"type": "cancel", "run_id": run_id})
            refused = [(await frame_of(socket, "error"))["error"] for _ in range(2)]
            assert [(error["status"], error["code"]) for error in refused] == [(429, "too_many_runs")] * 2
            go_on.set()
        for run_id in reversed(runs):
            await server.cancel(run_id)


async def test_refusals_before_a_rest_do_not_count_against_a_socket(sqlite_url, monkeypatch):
    now = 0.0
    monkeypatch.setattr("pilothouse.runs.websocket.TokenBucket", partial(TokenBucket, clock=lambda: now))
    monkeypatch.setattr("pilothouse.runs.websocket._MOST_REFUSED", 3)
    async with (
        running(sqlite_url, HELLO, server={"max_frames_per_second": 100}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        for _ in range(3):
            refused = 0
            while refused < 2:
                await socket.send_json({"type": "ping"})
                refused += (await frame(socket))["type"] == "error"
            now += 60
        await socket.send_json({"type": "ping"})
        assert (await frame(socket))["type"] == "pong"


async def test_a_frame_over_the_rate_is_refused_and_the_next_is_read_when_it_may_come(database_url):
    async with (
        running(database_url, HELLO, server={"max_frames_per_second": 2}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        answers: list[dict[str, Any]] = []
        while len(answers) < 500 and (not answers or answers[-1]["type"] == "pong"):
            await socket.send_json({"type": "ping"})
            answers.append(await frame(socket))
        error = answers[-1]["error"]
        assert (error["status"], error["code"], error["retryable"]) == (429, "rate_limited", True)
        assert 0 < error["retry_after"] <= 0.5
        await socket.send_json({"type": "message", "message": "Ada"})
        assert (await frame_of(socket, "run.completed", "error"))["data"]["text"] == "Hello, Ada."


async def test_a_large_frame_counts_as_several(sqlite_url):
    async with (
        running(sqlite_url, HELLO, server={"max_frames_per_second": 5}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):
        large = json.dumps({"type": "ping", "more": "x" * 600_000})
        await socket.send_str(large)
        assert (await frame(socket))["error"]["code"] == "invalid_frame"
        await socket.send_str(large)
        assert (await frame(socket))["error"]["code"] == "rate_limited"


async def test_who_goes_on_far_over_the_rate_is_closed_with_1008(database_url):
    async with (
        running(database_url, HELLO, server={"max_frames_per_second": 100}) as server,
        server.session.ws_connect("/v1/chat/ws/new") as socket,
    ):

        async def flood() -> None:
            for _ in range(20_000):
                if not socket.closed:
                    await socket.send_json({"type": "cancel", "run_id": "run_invented"})

        flooding = asyncio.create_task(flood())
        codes = [answer["error"]["code"] for answer in await frames_to_the_end(socket)]
        await asyncio.gather(flooding, return_exceptions=True)
        assert socket.close_code == 1008
        assert codes[-1] == "rate_limited"
        assert codes.count("rate_limited") == 101
        assert codes.count("run_not_found") >= 200  # the burst was answered


async def test_a_client_that_sends_and_does_not_read_is_not_answered_into_memory(sqlite_url, monkeypatch):
    """It is taken for gone when it has taken nothing for a while."""
    monkeypatch.setattr("pilothouse.runs.websocket._STALL_SECONDS", 0.2)
    async with running(sqlite_url, HELLO, server={"max_frames_per_second": 100_000}) as server:
        waiting = asyncio.Event()

        async def stuck(*_: Any) -> None:
            await waiting.wait()

        monkeypatch.setattr("starlette.websockets.WebSocket.send_text", stuck)
        async with server.session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "ping"})
            async with asyncio.timeout(30):
                assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)
        assert len(server.services.connections) == 0


# --- connections


LIMITS = {"max_connections_per_credential": 2, "max_connections_per_subject": 3}


async def refusal(person: Person, run_id: str) -> tuple[tuple[int, str], int]:
    """The answers to one more event stream and to one more WebSocket."""
    response = await person.get(f"/v1/runs/{run_id}/events")
    assert "Retry-After" in response.headers
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await person.session.ws_connect("/v1/chat/ws/new")
    return (response.status_code, response.json()["code"]), refused.value.status


async def held_run(server: RunningServer, tools: Tools) -> str:
    async with server.stream("go") as stream:
        await stream.until("tool.started")
    await tools.entered.wait()
    await nobody_connected(server)
    return stream.run_id


async def nobody_connected(server: RunningServer) -> None:
    async with asyncio.timeout(30):
        while len(server.services.connections):
            await asyncio.sleep(0)


async def test_connections_are_counted_for_each_credential_and_each_subject(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent(), server=LIMITS) as server, AsyncExitStack() as opened:
        run_id = await held_run(server, tools)
        other = server.bearer(token_for("ada", scope=f"{ALL_SCOPES} more"))
        await opened.enter_async_context(server.session.ws_connect("/v1/chat/ws/new"))
        await opened.enter_async_context(server.follow(run_id))
        assert await refusal(server, run_id) == ((429, "too_many_connections"), 429)
        answer = await server.post("/v1/chat/stream", {"message": "hello"})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_connections")
        assert len((await server.get("/v1/runs")).json()["items"]) == 1  # a refused stream has begun no run
        page = await server.http.get(f"/v1/runs/{run_id}/events", headers={"Accept": "application/json"})
        assert page.status_code == 200  # what is answered at once is no open connection
        await opened.enter_async_context(other.session.ws_connect("/v1/chat/ws/new"))
        assert await refusal(other, run_id) == ((429, "too_many_connections"), 429)
        await opened.enter_async_context(server.person("bob").session.ws_connect("/v1/chat/ws/new"))
        tools.go_on.set()


async def test_a_connection_counts_no_longer_however_it_ends(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent(), server=LIMITS) as server:
        run_id = await held_run(server, tools)
        for _ in range(4):  # more often than there may be open ones
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await server.session.ws_connect("/v1/chat/ws/conv_nosuch")
            assert (await server.get("/v1/runs/run_nosuch/events")).status_code == 404
            assert (await server.post("/v1/chat/stream", {"message": ""})).status_code == 422
            assert (await server.post("/v1/chat/stream", {"message": "x", "agent": "nosuch"})).status_code in (404, 422)
            async with server.session.ws_connect("/v1/chat/ws/new") as socket:
                await socket.send_json({"type": "ping"})
            cut = await server.session.ws_connect("/v1/chat/ws/new")
            assert cut._response.connection is not None
            assert cut._response.connection.transport is not None
            cut._response.connection.transport.abort()
            async with server.follow(run_id) as stream:
                stream.leave()
            await nobody_connected(server)
        tools.go_on.set()
        assert (await server.events(run_id))[-1].type == "run.completed"
        await nobody_connected(server)
