"""P5: cancel reaches the model and the tools, is acknowledged with what took effect, and leaves things whole."""

import asyncio
import threading
from typing import Any

import pytest
from pydantic_ai import Agent
from tests.support.server import running

from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool


class Tools:
    """Tools a test can hold."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()
        self.thread_entered = threading.Event()
        self.thread_go_on = threading.Event()
        self.thread_done = threading.Event()

    def agent(self, **limits: Any):
        @tool(effect="once")
        async def hold(name: str) -> str:
            self.entered.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return f"{name} done"

        @tool(effect="once")
        async def quick() -> str:
            return "quick done"

        @tool(effect="once", timeout=limits.pop("thread_timeout", None))
        def block() -> str:
            self.thread_entered.set()
            self.thread_go_on.wait(20)
            self.thread_done.set()
            return "block done"

        @tool(effect="once", approval=True)
        async def ask() -> str:
            return "asked"

        agent = Agent(name="helper", tools=[hold, quick, block, ask])
        return lambda app: app.agent(agent, **limits)


def calling(*calls: ToolCall, after: str | Turn = "after the tools") -> Script:
    return Script(
        rules=[
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=list(calls)), times=1),
            Rule(when=When(after_tool=True), turn=Turn(text=after) if isinstance(after, str) else after),
        ],
        turns=["next turn works"],
    )


async def check_whole(server, conversation_id: str) -> None:
    """Every call has one result, and the conversation goes on."""
    messages = await server.messages(conversation_id)
    calls = [call["call_id"] for item in messages for call in item["tool_calls"]]
    assert sorted(calls) == sorted(item["call_id"] for item in messages if item["role"] == "tool")
    answer = await server.chat("and now?", conversation_id=conversation_id)
    assert answer["state"] == "completed"


async def test_cancelling_closes_the_models_socket_and_keeps_what_was_seen(database_url):
    script = Script(
        rules=[Rule(when=When(user_contains="long"), turn=Turn(tokens=400, gate="g", gate_after_tokens=10))],
        turns=["next"],
    )
    async with running(database_url, script) as server, server.stream("a long one") as stream:
        await stream.until("text.delta")
        cancelled = await server.cancel(stream.run_id)
        assert cancelled == {
            "run_id": stream.run_id,
            "state": "cancelled",
            "took_effect": [],
            "already_finished": False,
        }
        await server.provider.wait_for_finished(1)
        assert server.provider.requests[0].outcome == "client_disconnected"
        events = await stream.rest()
        assert events[-1].type == "run.cancelled"
        seen = "".join(event.data["text"] for event in events if event.type == "text.delta")
        assert seen
        [_, kept] = await server.messages(stream.conversation_id)
        assert (kept["text"], kept["interrupted"]) == (seen, True)
        await check_whole(server, stream.conversation_id)


async def test_cancelling_stops_a_model_that_has_not_begun_to_answer(database_url):
    async with running(
        database_url, Script(rules=[Rule(when=When(user_contains="hang"), turn=Turn(hang=True))], turns=["next"])
    ) as server:
        whole = asyncio.create_task(server.send("hang please"))
        await server.provider.wait_for_requests(1)
        [run] = (await server.get("/v1/runs")).json()["items"]
        await server.cancel(run["id"])
        await server.provider.wait_for_finished(1)
        assert server.provider.requests[0].outcome == "client_disconnected"
        answer = (await whole).json()
        assert answer["state"] == "cancelled"
        await check_whole(server, run["conversation_id"])


async def test_cancelling_stops_the_tools_and_says_what_took_effect(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}), ToolCall(name="quick"))
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as stream:
        await stream.until("tool.finished")
        await tools.entered.wait()
        cancelled = await server.cancel(stream.run_id)
        assert tools.cancelled.is_set()
        effects = {effect["tool"]: effect["status"] for effect in cancelled["took_effect"]}
        assert effects == {"quick": "ok", "hold": "in_doubt"}
        events = await stream.rest()
        assert {e["tool"]: e["status"] for e in events[-1].data["took_effect"]} == effects
        await check_whole(server, stream.conversation_id)


async def test_a_tool_in_a_thread_does_not_hold_up_a_cancel(database_url):
    tools = Tools()
    async with (
        running(database_url, calling(ToolCall(name="block")), setup=tools.agent()) as server,
        server.stream("go") as stream,
    ):
        await stream.until("tool.started")
        await asyncio.to_thread(tools.thread_entered.wait, 10)
        async with asyncio.timeout(5):
            cancelled = await server.cancel(stream.run_id)
        assert not tools.thread_done.is_set()
        tools.thread_go_on.set()
        assert cancelled["took_effect"] == [
            {"tool": "block", "call_id": cancelled["took_effect"][0]["call_id"], "status": "in_doubt"}
        ]
        await check_whole(server, stream.conversation_id)


async def test_a_tool_in_a_thread_does_not_hold_up_its_timeout(database_url):
    tools = Tools()
    setup = tools.agent(thread_timeout=0.2)
    async with running(database_url, calling(ToolCall(name="block"), after="{tool_result}"), setup=setup) as server:
        async with asyncio.timeout(8):
            answer = await server.chat("go")
        assert not tools.thread_done.is_set()
        tools.thread_go_on.set()
        assert answer["tools"][0]["status"] == "error"
        assert '"timeout"' in answer["text"]


async def test_cancelling_twice_and_at_once_gives_the_same_answer(database_url):
    tools = Tools()
    async with (
        running(database_url, calling(ToolCall(name="hold", arguments={"name": "x"})), setup=tools.agent()) as server,
        server.stream("go") as stream,
    ):
        await tools.entered.wait()
        both = await asyncio.gather(*(server.cancel(stream.run_id) for _ in range(5)))
        assert {answer["state"] for answer in both} == {"cancelled"}
        again = await server.cancel(stream.run_id)
        assert again["already_finished"] is True
        assert again["took_effect"] == both[0]["took_effect"]


async def test_cancelling_what_has_ended_changes_nothing(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        answer = await server.chat("Hi")
        before = await server.events(answer["run_id"])
        cancelled = await server.cancel(answer["run_id"])
        assert (cancelled["state"], cancelled["already_finished"]) == ("completed", True)
        assert (await server.run(answer["run_id"]))["state"] == "completed"
        assert await server.events(answer["run_id"]) == before


async def test_a_waiting_run_is_cancelled_without_ever_asking_the_model(database_url):
    tools = Tools()
    async with running(
        database_url, calling(ToolCall(name="hold", arguments={"name": "x"})), setup=tools.agent()
    ) as server:
        async with server.stream("go") as first:
            await tools.entered.wait()
            async with server.stream("later", conversation_id=first.conversation_id, on_busy="queue") as second:
                cancelled = await server.cancel(second.run_id)
                assert (cancelled["state"], cancelled["took_effect"]) == ("cancelled", [])
                assert [event.type for event in await second.rest()] == ["run.queued", "run.cancelled"]
            tools.go_on.set()
            assert (await first.rest())[-1].type == "run.completed"
        assert len(server.provider.requests) == 2


async def test_a_run_that_waits_for_a_person_is_cancelled(database_url):
    tools = Tools()
    async with running(
        database_url, calling(ToolCall(name="ask"), ToolCall(name="quick")), setup=tools.agent()
    ) as server:
        response = await server.send("go")
        assert response.status_code == 202
        waiting = response.json()
        assert waiting["state"] == "awaiting_input"
        async with asyncio.timeout(5):
            cancelled = await server.cancel(waiting["run_id"])
        assert cancelled["state"] == "cancelled"
        assert [effect["tool"] for effect in cancelled["took_effect"]] == ["quick"]
        assert (await server.events(waiting["run_id"]))[-1].type == "run.cancelled"
        await check_whole(server, waiting["conversation_id"])


async def test_nobody_cancels_what_is_someone_elses(database_url):
    tools = Tools()
    async with (
        running(database_url, calling(ToolCall(name="hold", arguments={"name": "x"})), setup=tools.agent()) as server,
        server.stream("go") as stream,
    ):
        await tools.entered.wait()
        for person in (server.person("bob"), server.person("ada", tenant="other")):
            response = await person.post(f"/v1/runs/{stream.run_id}/cancel")
            assert (response.status_code, response.json()["code"]) == (404, "run_not_found")
        assert not tools.cancelled.is_set()
        assert (await server.run(stream.run_id))["cancel_requested"] is False
        tools.go_on.set()
        assert (await stream.rest())[-1].type == "run.completed"


async def test_a_cancel_that_comes_while_the_end_is_written_does_not_lose_the_next_in_line(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    rarely = {"reap_seconds": 60}
    async with running(database_url, script, setup=tools.agent(), lease=rarely) as server, server.stream("go") as first:
        await tools.entered.wait()
        async with server.stream("later", conversation_id=first.conversation_id, on_busy="queue") as second:
            executor = server.services.executor
            run = executor._runs[first.run_id]
            finish, finishing, go_on = run.finish, asyncio.Event(), asyncio.Event()
            write = run.journal._write

            async def slow(batch):
                if batch.run.get("state") == "completed":
                    finishing.set()
                    await go_on.wait()
                return await write(batch)

            run.journal._write = slow
            assert finish is not None
            tools.go_on.set()
            await finishing.wait()
            cancel = asyncio.create_task(server.cancel(first.run_id))
            while run.cancel_reason is None:
                await asyncio.sleep(0)
            go_on.set()
            assert (await cancel)["state"] == "completed"
            assert (await first.rest())[-1].type == "run.completed"
            async with asyncio.timeout(30):  # sooner than the reaper looks
                assert (await second.rest())[-1].type == "run.completed"


async def test_leaving_a_stream_does_not_stop_its_run_unless_asked_to(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server:
        async with server.stream("go") as stream:
            await tools.entered.wait()
            run_id = stream.run_id
            stream.leave()
        assert (await server.run(run_id))["state"] == "running"
        tools.go_on.set()
        assert (await server.events(run_id))[-1].type == "run.completed"


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "stream"])
async def test_leaving_stops_the_run_where_that_was_asked_for(database_url, whole):
    script = Script(turns=[Turn(hang=True)])
    async with running(database_url, script) as server:
        path = "/v1/chat" if whole else "/v1/chat/stream"
        body = {"message": "hi", "on_disconnect": "cancel"}
        request = asyncio.create_task(server.session.post(path, json=body).__aenter__())
        await server.provider.wait_for_requests(1)
        if whole:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        else:
            (await request).close()
        await server.provider.wait_for_finished(1)
        assert server.provider.requests[0].outcome == "client_disconnected"
        [run] = (await server.get("/v1/runs")).json()["items"]
        assert (await server.events(run["id"]))[-1].type == "run.cancelled"


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "stream"])
async def test_leaving_stops_a_run_that_waits_for_its_turn_where_that_was_asked_for(database_url, whole):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as first:
        await tools.entered.wait()
        path = "/v1/chat" if whole else "/v1/chat/stream"
        body = {
            "message": "later",
            "on_disconnect": "cancel",
            "on_busy": "queue",
            "conversation_id": first.conversation_id,
        }
        request = asyncio.create_task(server.session.post(path, json=body).__aenter__())
        queued: list[str] = []
        while not queued:
            items = (await server.get("/v1/runs", state="queued")).json()["items"]
            queued = [run["id"] for run in items]
        if whole:
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        else:
            (await request).close()
        async with asyncio.timeout(60):
            assert (await server.events(queued[0]))[-1].data["reason"] == "its caller left"
        tools.go_on.set()
        assert (await first.rest())[-1].type == "run.completed"
        assert (await server.run(queued[0]))["attempt"] == 0


async def test_a_whole_answer_that_waits_for_its_turn_comes_though_leaving_would_stop_it(database_url):
    tools = Tools()
    script = calling(ToolCall(name="hold", arguments={"name": "x"}))
    async with running(database_url, script, setup=tools.agent()) as server, server.stream("go") as first:
        await tools.entered.wait()
        body = {"on_disconnect": "cancel", "on_busy": "queue", "conversation_id": first.conversation_id}
        later = asyncio.create_task(server.chat("later", **body))
        while not (await server.get("/v1/runs", state="queued")).json()["items"]:
            await asyncio.sleep(0)
        tools.go_on.set()
        assert (await later)["text"] == "next turn works"
