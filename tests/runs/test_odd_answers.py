"""Runs whose model sends too much, or nothing."""

from typing import Any

from pydantic_ai import Agent
from tests.support.server import running

from pilothouse.testing.provider import Script, ToolCall, Turn
from pilothouse.tools import tool

SMALL = {"max_answer_chars": 2_000, "max_argument_chars": 1_500}


@tool(effect="pure")
async def note(text: str) -> str:
    return text


def agents() -> list[Agent[Any, Any]]:
    return [Agent(name="helper", tools=[note])]


async def test_an_answer_too_large_ends_its_run_and_the_next_turn_works(database_url):
    script = Script(turns=[Turn(text="word " * 2_000), Turn(text="Well.")])
    async with running(database_url, script, agents=agents(), models=SMALL) as server:
        async with server.stream("Tell me all.") as stream:
            events = await stream.rest()
        assert events[-1].type == "run.failed"
        error = events[-1].data["error"]
        assert (error["code"], error["category"], error["retryable"]) == ("model_answer_too_large", "model", False)
        shown = "".join(event.data["text"] for event in events if event.type == "text.delta")
        run_id, conversation_id = stream.response.headers["X-Run-ID"], stream.response.headers["X-Conversation-ID"]
        assert (await server.events(run_id))[-1].data == events[-1].data
        kept = await server.messages(conversation_id)
        assert [message["role"] for message in kept] == ["user", "assistant"]
        assert (kept[1]["text"], kept[1]["interrupted"]) == (shown, True)
        assert 0 < len(shown) <= SMALL["max_answer_chars"]
        assert len(server.provider.requests) == 1
        answer = await server.chat("And now?", conversation_id=conversation_id)
        assert answer["text"] == "Well."


async def test_a_whole_answer_too_large_is_refused_with_its_code(database_url):
    script = Script(turns=[Turn(text="word " * 2_000), Turn(text="Well.")])
    async with running(database_url, script, agents=agents(), models=SMALL) as server:
        response = await server.send("Tell me all.")
        assert (response.status_code, response.json()["code"]) == (502, "model_answer_too_large")
        conversation_id = response.json()["conversation_id"]
        assert (await server.chat("And now?", conversation_id=conversation_id))["text"] == "Well."


async def test_arguments_too_large_are_never_a_call(database_url):
    call = ToolCall(name="note", arguments={"text": "word " * 1_000})
    script = Script(turns=[Turn(text="One moment.", tool_calls=[call]), Turn(text="Well.")])
    async with running(database_url, script, agents=agents(), models=SMALL) as server:
        async with server.stream("Note this.") as stream:
            events = await stream.rest()
        assert events[-1].data["error"]["code"] == "model_answer_too_large"
        assert not any(event.type.startswith("tool.") for event in events)
        conversation_id = stream.response.headers["X-Conversation-ID"]
        assert (await server.chat("And now?", conversation_id=conversation_id))["text"] == "Well."


async def test_an_empty_answer_is_asked_for_again_and_nobody_notices(database_url):
    script = Script(turns=[Turn(text=""), Turn(text="", reasoning="Hm."), Turn(text="Well.")])
    async with running(database_url, script, agents=agents()) as server:
        answer = await server.chat("Hello")
        assert answer["text"] == "Well."
        messages = await server.messages(answer["conversation_id"])
        assert [message["role"] for message in messages] == ["user", "assistant"]


async def test_a_model_that_says_nothing_fails_its_run_with_a_code_of_its_own(database_url):
    script = Script(turns=[Turn(text="")])
    async with running(database_url, script, agents=agents(), models={"attempts": 3}) as server:
        response = await server.send("Hello")
        problem = response.json()
        assert (response.status_code, problem["code"], problem["retryable"]) == (502, "empty_answer", True)
        assert len(server.provider.requests) == 3
        messages = await server.messages(problem["conversation_id"])
        assert [message["role"] for message in messages] == ["user"]


async def test_a_tool_call_without_text_is_an_answer(database_url):
    call = ToolCall(name="note", arguments={"text": "x"})
    script = Script(turns=[Turn(text="", tool_calls=[call]), Turn(text="Noted.")])
    async with running(database_url, script, agents=agents()) as server:
        assert (await server.chat("Note x."))["text"] == "Noted."
        assert len(server.provider.requests) == 2


async def test_an_agent_that_may_have_nothing_to_say_may_say_nothing(database_url):
    agent: Agent[Any, Any] = Agent(name="helper", output_type=str | None)  # type: ignore[call-overload]
    async with running(database_url, Script(turns=[Turn(text="")]), agents=[agent]) as server:
        answer = await server.chat("Hello")
        assert (answer["state"], answer["output"]) == ("completed", None)
        assert len(server.provider.requests) == 1


async def test_an_answer_cut_off_before_its_first_word_says_so(database_url):
    script = Script(turns=[Turn(text="", reasoning="Let me think.", finish_reason="length")])
    async with running(database_url, script, agents=agents()) as server:
        response = await server.send("Hello")
        assert (response.status_code, response.json()["code"]) == (502, "output_limit_reached")
        assert not response.json()["retryable"]
        assert len(server.provider.requests) == 1
