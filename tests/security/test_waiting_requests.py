"""Requests that wait cost nothing once their clients have left, and count while they are there."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from tests.support.server import RunningServer, running

from pilothouse.testing.provider import Script, Turn
from pilothouse.tools import tool

MANY = 20


async def leave_after(server: RunningServer, path: str, body: dict[str, Any], *, waiting: int) -> None:
    """Send a request many times with one key, and leave when `waiting` of them wait."""
    headers = {"Idempotency-Key": "same"}
    requests = [
        asyncio.create_task(server.session.post(path, json=body, headers=headers).__aenter__()) for _ in range(MANY)
    ]
    async with asyncio.timeout(60):
        while handlers() < waiting:
            await asyncio.sleep(0.01)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


def handlers() -> int:
    """Requests the server is working on."""
    return sum("run_asgi" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def until_handlers(count: int) -> None:
    async with asyncio.timeout(60):
        while handlers() > count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("policy", ["continue", "cancel"])
async def test_a_chat_whose_client_has_left_is_not_waited_for(sqlite_url, policy):
    """Seen in an attack: 12,000 repeats of one request, each left at once, kept 600 MB until the run ended."""
    async with running(sqlite_url, Script(turns=[Turn(hang=True)])) as server:
        await leave_after(server, "/v1/chat", {"message": "hi", "on_disconnect": policy}, waiting=MANY)
        await until_handlers(1)  # the provider's own, which hangs
        [run] = (await server.get("/v1/runs")).json()["items"]
        if policy == "continue":
            assert run["state"] == "running"
            await server.post(f"/v1/runs/{run['id']}/cancel")
        else:
            assert (await server.events(run["id"]))[-1].type == "run.cancelled"


async def test_a_repeated_tool_call_whose_client_has_left_is_not_waited_for_and_the_first_goes_on(sqlite_url):
    go_on, done = asyncio.Event(), asyncio.Event()

    @tool(effect="once")
    async def hold() -> str:
        await go_on.wait()
        done.set()
        return "done"

    def setup(app: Any) -> None:
        app.agent(Agent(name="helper"), tools=[hold])

    async with running(sqlite_url, Script(turns=["Hello."]), setup=setup) as server:
        await leave_after(server, "/v1/tools/hold", {"arguments": {}}, waiting=MANY)
        await until_handlers(1)  # the first one's work
        go_on.set()
        async with asyncio.timeout(60):
            await done.wait()
        await until_handlers(0)
        answer = await server.post("/v1/tools/hold", {"arguments": {}}, Idempotency_Key="same")
        assert answer.json()["result"] == "done"


async def test_a_chat_that_waits_is_one_of_its_callers_open_connections(sqlite_url):
    limits = {"max_connections_per_credential": 2}
    async with running(sqlite_url, Script(turns=[Turn(hang=True)]), server=limits) as server:
        waiting = [
            asyncio.create_task(server.session.post("/v1/chat", json={"message": "hi"}).__aenter__()) for _ in range(2)
        ]
        await server.provider.wait_for_requests(2)
        refused = await server.send("hi")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_connections")
        runs = (await server.get("/v1/runs")).json()["items"]
        assert len(runs) == 2
        for run in runs:
            await server.post(f"/v1/runs/{run['id']}/cancel")
        for answer in await asyncio.gather(*waiting):
            answer.close()
