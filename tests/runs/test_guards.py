"""What bounds a run, and how models' failures are told."""

import asyncio
import io
from typing import Any

import pytest
from pydantic_ai import Agent
from tests.promises.test_p7_history_cannot_be_bricked import everything
from tests.support.server import running

from pilothouse.observability.logs import configure_logging
from pilothouse.settings import LogSettings
from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool


class Response:
    status_code = 503


class HTTPStatusError(Exception):
    response = Response()


def agent() -> Agent[Any, Any]:
    @tool(effect="pure")
    async def count(number: int) -> int:
        return number

    @tool(effect="pure", max_output_chars=300)
    async def much() -> str:
        return "x" * 100_000

    @tool(effect="pure", timeout=0.05)
    async def slow() -> str:
        await asyncio.sleep(30)
        return "never"

    @tool(effect="pure")
    async def away() -> str:
        raise HTTPStatusError(f"503 from https://internal {FAKE_SECRET}")

    return Agent(name="helper", tools=[count, much, slow, away])


def limited(**limits: Any):
    return lambda app: app.agent(agent(), **limits)


def always(turn: Turn) -> Script:
    return Script(turns=[turn])


async def test_a_run_makes_at_most_so_many_model_requests(database_url):
    turn = Turn(tool_calls=[ToolCall(name="count", arguments={"number": "{request}"})])
    script = Script(
        turns=[
            turn.model_copy(
                update={
                    "tool_calls": (
                        ToolCall(
                            name="count", raw_arguments='{{"number": {request}}}'.replace("{{", "{").replace("}}", "}")
                        ),
                    )
                }
            )
        ]
    )
    async with running(database_url, script, setup=limited(max_iterations=3)) as server:
        response = await server.send("go")
        assert (response.status_code, response.json()["code"]) == (422, "max_iterations")
        assert len(server.provider.requests) == 3


async def test_an_agent_that_repeats_itself_is_stopped(database_url):
    script = always(Turn(tool_calls=[ToolCall(name="count", arguments={"number": 1})]))
    async with running(database_url, script, setup=limited()) as server:
        response = await server.send("go")
        assert (response.status_code, response.json()["code"]) == (422, "stalled")
        assert len(server.provider.requests) == 4
        messages = await server.messages(response.json()["conversation_id"])
        assert sum(message["role"] == "tool" for message in messages) == 4


async def test_malformed_arguments_go_back_to_the_model_so_often_and_no_oftener(database_url):
    turns = [Turn(tool_calls=[ToolCall(name="count", raw_arguments='{"number": ' + "x" * n)]) for n in range(1, 20)]
    async with running(database_url, Script(turns=turns), setup=limited(argument_retries=2)) as server:
        response = await server.send("go")
        assert (response.status_code, response.json()["code"]) == (502, "malformed_arguments")
        assert len(server.provider.requests) == 3


@pytest.mark.parametrize(
    ("name", "code"), [("slow", "timeout"), ("away", "http_error"), ("nosuch", "unknown_tool"), ("much", None)]
)
async def test_what_a_tool_met_is_told_to_the_model_in_a_structure(sqlite_url, name, code):
    script = Script(
        rules=[Rule(when=When(after_tool=True), turn=Turn(text="{tool_result}"))],
        turns=[Turn(tool_calls=[ToolCall(name=name)])],
    )
    async with running(sqlite_url, script, setup=limited()) as server:
        answer = await server.chat("go")
        steps = (await server.run(answer["run_id"]))["steps"]
        [step] = [step for step in steps if step["kind"] == "tool"]
        assert step["error_code"] == code
        assert FAKE_SECRET not in answer["text"]
        if name == "much":
            assert len(answer["text"]) <= 300
            assert "Cut" in answer["text"]
        elif code != "unknown_tool":
            assert f'"type":"{code}"' in answer["text"]


async def test_a_model_that_does_not_answer_in_time_is_given_up(sqlite_url):
    script = always(Turn(hang=True))
    groups = {"models": {"default": "openai:scripted", "check": False, "attempts": 1}}
    async with running(sqlite_url, script, setup=limited(model_timeout_seconds=1.5), **groups) as server:
        response = await server.send("go")
        assert response.json()["code"] == "provider_timeout"
        assert response.json()["retryable"] is True
        await server.provider.wait_for_finished(1)
        assert server.provider.requests[0].outcome == "client_disconnected"


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_a_transient_failure_is_tried_again(sqlite_url, status):
    script = Script(
        rules=[Rule(when=When(), turn=Turn(error=ErrorReply(status=status, retry_after=0)), times=2)],
        turns=["At last."],
    )
    async with running(sqlite_url, script) as server:
        assert (await server.chat("hi"))["text"] == "At last."
        assert len(server.provider.requests) == 3


async def test_a_cut_stream_is_withdrawn_and_begun_again(database_url):
    script = Script(
        rules=[Rule(when=When(), turn=Turn(text="this will be cut off soon", cut_after_tokens=4), times=1)],
        turns=["the right answer"],
    )
    async with running(database_url, script) as server, server.stream("hi") as stream:
        events = await stream.rest()
        types = [event.type for event in events]
        restarted = types.index("step.restarted")
        assert "text.delta" in types[:restarted]
        after = "".join(event.data["text"] for event in events[restarted:] if event.type == "text.delta")
        assert after == "the right answer" == events[-1].data["text"]


TROUBLE = [
    (Turn(error=ErrorReply(status=500)), 502, "provider_unavailable", True, 4),
    (Turn(error=ErrorReply(status=429, retry_after=0)), 502, "provider_rate_limited", True, 4),
    (Turn(error=ErrorReply(status=401)), 502, "provider_auth", False, 1),
    (Turn(error=ErrorReply(status=400)), 502, "provider_bad_request", False, 1),
    (Turn(tokens=20, malformed_chunk=True), 502, "provider_bad_response", None, None),
    (Turn(tokens=20, error=ErrorReply(status=500, after_tokens=5)), 502, "provider_unavailable", True, 4),
]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(("turn", "status", "code", "retryable", "tries"), TROUBLE, ids=lambda item: str(item)[:20])
async def test_a_models_failure_is_told_in_our_words_only(sqlite_url, turn, status, code, retryable, tries, stream):
    lines = io.StringIO()
    async with running(sqlite_url, always(turn)) as server:
        configure_logging(LogSettings(level="debug", format="json"), "development", stream=lines)
        if stream:
            async with server.stream("hi") as events:
                text = str(await events.rest())
            run = await server.run(events.run_id)
            problem = events.events[-1].data["error"]
        else:
            response = await server.send("hi")
            problem, text = response.json(), response.text
            if "run_id" not in problem:
                pytest.skip("a whole answer has no chunks to be malformed")
            run = await server.run(problem["run_id"])
            if run["state"] == "completed":
                return  # not streamed: there was no chunk to break
            assert response.status_code == status
        assert run["state"] == "failed"
        assert problem["code"] == code
        if retryable is not None:
            assert problem["retryable"] is retryable
        if tries is not None:
            assert len(server.provider.requests) == tries
        for told in (text, str(run), await everything(server), lines.getvalue()):
            assert FAKE_SECRET not in told
            assert "internal-7" not in told or told == lines.getvalue()
