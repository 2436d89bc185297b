"""P7: whatever went wrong, every tool call has one result and the next turn works."""

import asyncio
import base64
from typing import Any

import pytest
from pydantic_ai import Agent
from sqlalchemy import text
from tests.promises.test_p5_stop_means_stopped import check_whole
from tests.support.server import running

from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool

QUICK = {"models": {"default": "openai:scripted", "check": False, "attempts": 2, "backoff_seconds": 0.001}}


class Circle:
    """Can't be written as JSON."""


def agent() -> Agent[Any, Any]:
    @tool(effect="pure")
    async def ok() -> str:
        return "fine"

    @tool(effect="once")
    async def breaks() -> str:
        raise RuntimeError(f"internal {FAKE_SECRET}")

    @tool(effect="once")
    async def exits() -> str:
        raise SystemExit(3)

    @tool(effect="once")
    async def gives_up() -> str:
        raise asyncio.CancelledError

    @tool(effect="once")
    async def group() -> str:
        raise BaseExceptionGroup("", [SystemExit(3), ValueError()])

    @tool(effect="once")
    async def circle() -> Any:
        value: list[Any] = []
        value.append(value)
        return value

    @tool(effect="once")
    async def surrogate() -> str:
        return "half \ud800 and nul \x00"

    @tool(effect="once")
    async def bytes_out() -> bytes:
        return b"\xff\xfe\x00"

    @tool(effect="once", timeout=0.05)
    async def slow() -> str:
        await asyncio.sleep(30)
        return "never"

    @tool(effect="once")
    async def waits() -> str:
        await asyncio.Event().wait()
        return "never"

    return Agent(name="helper", tools=[ok, breaks, exits, gives_up, group, circle, surrogate, bytes_out, slow, waits])


def then(turn: Turn) -> Script:
    return Script(
        rules=[
            Rule(
                when=When(user_contains="go", after_tool=False), turn=Turn(text="so", tool_calls=[ToolCall(name="ok")])
            ),
            Rule(when=When(user_contains="go", after_tool=True), turn=turn),
        ],
        turns=["next"],
    )


TROUBLE = {
    "500": Turn(error=ErrorReply(status=500)),
    "429": Turn(error=ErrorReply(status=429)),
    "400": Turn(error=ErrorReply(status=400)),
    "401": Turn(error=ErrorReply(status=401)),
    "cut": Turn(tokens=50, cut_after_tokens=20),
    "cut at once": Turn(tokens=50, cut_after_tokens=0),
    "cut in a call": Turn(tool_calls=[ToolCall(name="ok", raw_arguments="{" + " " * 80)], cut_after_tokens=5),
    "error in the stream": Turn(tokens=50, error=ErrorReply(status=500, after_tokens=10)),
    "malformed": Turn(tokens=50, malformed_chunk=True),
    "filtered": Turn(text="no", finish_reason="content_filter"),
    "too long": Turn(text="and so on", finish_reason="length"),
}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("trouble", TROUBLE)
async def test_after_trouble_with_the_model_the_next_turn_works(sqlite_url, trouble, stream):
    async with running(sqlite_url, then(TROUBLE[trouble]), agents=[agent()], **QUICK) as server:
        if stream:
            async with server.stream("go") as events:
                last = (await events.rest())[-1]
            run = await server.run(events.run_id)
            assert last.type == {"failed": "run.failed", "completed": "run.completed"}[run["state"]]
        else:
            response = await server.send("go")
            body = response.json()
            run = await server.run(body["run_id"])
            if run["state"] == "failed":
                assert response.status_code >= 422
                assert body["code"] == run["error"]["code"]
                assert FAKE_SECRET not in response.text
        assert run["state"] in ("failed", "completed")
        assert (run["state"] == "failed") == (trouble not in ("filtered", "too long")) or trouble == "filtered"
        assert FAKE_SECRET not in str(run)
        await check_whole(server, run["conversation_id"])


@pytest.mark.parametrize(
    "name", ["breaks", "exits", "gives_up", "group", "circle", "surrogate", "bytes_out", "slow", "nosuch"]
)
async def test_after_trouble_with_a_tool_the_run_and_the_next_turn_work(database_url, name):
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="all the same")),
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name=name), ToolCall(name="ok")])),
        ],
        turns=["next"],
    )
    async with running(database_url, script, agents=[agent()]) as server:
        async with asyncio.timeout(15):
            answer = await server.chat("go")
        assert (answer["state"], answer["text"]) == ("completed", "all the same")
        used = {use["name"]: use for use in answer["tools"]}
        assert used["ok"]["status"] == "ok"
        assert FAKE_SECRET not in str(answer)
        if name not in ("surrogate", "bytes_out"):
            assert used[name]["status"] == "error"
        await check_whole(server, answer["conversation_id"])
        assert FAKE_SECRET not in await everything(server)


@pytest.mark.parametrize(
    "call",
    [
        ToolCall(name="x" * 300),
        ToolCall(name="nul\x00name"),
        ToolCall(name="ok", raw_arguments="\x00"),
        ToolCall(name="ok", raw_arguments='{"a": "\\u0000 \\ud800"}'),
        ToolCall(name="ok", raw_arguments="[" * 500),
        ToolCall(name="ok", raw_arguments='"text"'),
        ToolCall(name="ok", raw_arguments="null"),
        ToolCall(name="ok", raw_arguments=""),
    ],
    ids=lambda call: repr(call.raw_arguments or call.name)[:30],
)
async def test_a_model_that_calls_nonsense_does_not_brick_the_conversation(database_url, call):
    script = Script(
        rules=[
            Rule(when=When(after_tool=True), turn=Turn(text="sorry")),
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[call])),
        ],
        turns=["next"],
    )
    async with running(database_url, script, agents=[agent()]) as server:
        async with asyncio.timeout(15):
            response = await server.send("go")
        run = await server.run(response.json()["run_id"])
        assert run["state"] == "completed", run["error"]
        await check_whole(server, run["conversation_id"])


async def test_after_a_run_that_took_too_long_the_next_turn_works(database_url):
    script = Script(
        rules=[
            Rule(when=When(user_contains="go"), turn=Turn(tool_calls=[ToolCall(name="waits"), ToolCall(name="ok")]))
        ],
        turns=["next"],
    )
    async with running(database_url, script, setup=lambda app: app.agent(agent(), timeout_seconds=3)) as server:
        response = await server.send("go")
        problem = response.json()
        assert (response.status_code, problem["code"], problem["retryable"]) == (504, "run_timeout", True)
        events = await server.events(problem["run_id"])
        assert {e.data["name"]: e.data["status"] for e in events if e.type == "tool.finished"} == {
            "waits": "in_doubt",
            "ok": "ok",
        }
        await check_whole(server, problem["conversation_id"])


@pytest.mark.parametrize("model", ["openai:scripted", "anthropic:scripted"])
async def test_after_a_table_of_excel_the_next_turn_works(database_url, model):
    """Seen in review: a CSV that is not UTF-8 was answered 500, then and with every later message."""
    table = {"media_type": "text/csv", "data": base64.b64encode("Jürgen;12 €".encode("cp1252")).decode()}
    async with running(database_url, Script(turns=["next"]), models={"default": model}) as server:
        answer = await server.chat("read this", attachments=[table])
        await server.chat("and?", conversation_id=answer["conversation_id"])
        for request in server.provider.requests:
            assert "Jürgen;12 €" in str(request.body)


async def everything(server) -> str:
    """All rows of all tables, as text."""

    def read(connection: Any) -> str:
        tables = ("runs", "steps", "run_events", "messages", "conversations")
        return "\n".join(str(row) for table in tables for row in connection.execute(text(f"SELECT * FROM {table}")))

    return await server.database.read(read)
