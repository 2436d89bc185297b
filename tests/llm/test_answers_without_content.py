"""Answers that arrive and are none: tried again, then told by a code of their own. Raw bytes, through the real SDKs."""

import json
from typing import Any

import pytest
from pydantic_ai.messages import (
    BinaryContent,
    FilePart,
    ModelResponse,
    NativeToolCallPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models.function import FunctionModel
from tests.llm.answers import (
    USAGE,
    answered,
    anthropic,
    anthropic_stream,
    block,
    chunk,
    completion,
    delta,
    message,
    output_text,
    response,
    response_stream,
    shown_to,
    sse,
)
from tests.llm.helpers import RecordingSink, ask, gateway_for

from pilothouse.errors import RunFailure
from pilothouse.llm.emptiness import is_empty, may_be_empty
from pilothouse.testing.provider import Script, ScriptedProvider, Turn

CHAT, CLAUDE, RESPONSES = "openai-chat:m", "anthropic:m", "openai-responses:m"
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
REASONING = {"type": "reasoning", "id": "y", "summary": []}
SUMMARY = {"type": "response.reasoning_summary_text.delta", "item_id": "y", "output_index": 0, "summary_index": 0}
DEEP = b"[" * 100_000

EMPTY_STREAMS = {
    "chat, no choices": (CHAT, sse(chunk([]), done=True)),
    "chat, null choices": (CHAT, sse(chunk(None), done=True)),
    "chat, only usage": (CHAT, sse(chunk([], usage=USAGE), done=True)),
    "chat, a choice without delta": (CHAT, sse(chunk([{"index": 0, "finish_reason": "stop"}]), done=True)),
    "chat, null delta": (CHAT, sse(delta(None, "stop"), done=True)),
    "chat, empty text": (CHAT, sse(delta({"content": ""}, "stop"), done=True)),
    "chat, null text": (CHAT, sse(delta({"content": None}, "stop"), done=True)),
    "chat, a blank": (CHAT, sse(delta({"content": " \n"}, "stop"), done=True)),
    "chat, only reasoning": (CHAT, sse(delta({"reasoning_content": "Hm"}, "stop"), done=True)),
    "chat, an unknown finish": (CHAT, sse(delta({}, "guardrail"), done=True)),
    "anthropic, no blocks": (CLAUDE, anthropic_stream()),
    "anthropic, an empty block": (CLAUDE, anthropic_stream(*block({"type": "text", "text": ""}))),
    "anthropic, null text": (CLAUDE, anthropic_stream(*block({"type": "text", "text": None}))),
    "anthropic, only thinking": (
        CLAUDE,
        anthropic_stream(*block(THINKING, {"type": "thinking_delta", "thinking": "Hm"})),
    ),
    "anthropic, an unknown stop": (CLAUDE, anthropic_stream(stop="odd")),
    "anthropic, no stop": (CLAUDE, anthropic_stream(stop=None)),
    "responses, no output": (RESPONSES, response_stream()),
    "responses, only reasoning": (
        RESPONSES,
        response_stream(
            {"type": "response.output_item.added", "output_index": 0, "item": REASONING},
            {**SUMMARY, "delta": "Hm"},
            output=[REASONING],
        ),
    ),
    "responses, an unknown status": (RESPONSES, response_stream(status="odd")),
}
EMPTY_WHOLES: dict[str, tuple[str, Any]] = {
    "chat, empty text": (CHAT, message({"role": "assistant", "content": ""})),
    "chat, null text": (CHAT, message({"role": "assistant", "content": None})),
    "chat, no text": (CHAT, message({"role": "assistant"})),
    "chat, only reasoning": (CHAT, message({"role": "assistant", "content": None, "reasoning_content": "Hm"})),
    "chat, an unknown finish": (CHAT, message({"role": "assistant", "content": ""}, "guardrail")),
    "anthropic, no blocks": (CLAUDE, anthropic([])),
    "anthropic, empty text": (CLAUDE, anthropic([{"type": "text", "text": ""}])),
    "anthropic, only thinking": (CLAUDE, anthropic([{**THINKING, "thinking": "Hm", "signature": "s"}])),
    "anthropic, an unknown stop": (CLAUDE, anthropic([], "odd")),
    "responses, no output": (RESPONSES, response([])),
    "responses, empty text": (RESPONSES, response([output_text("")])),
    "responses, null text": (RESPONSES, response([output_text(None)])),
    "responses, cancelled": (RESPONSES, response([], "cancelled")),
}
UNREADABLE_STREAMS = {
    "chat, a null choice": (CHAT, sse(chunk([None]), done=True)),
    "chat, a null event": (CHAT, sse(None, done=True)),
    "chat, a number": (CHAT, sse(3, done=True)),
    "chat, a list": (CHAT, sse([1], done=True)),
    "chat, only the last line": (CHAT, sse(done=True)),
    "chat, brackets": (CHAT, b"data: " + DEEP + b"\n\n" + sse(done=True)),
    "anthropic, only its end": (CLAUDE, sse({"type": "message_stop"})),
    "anthropic, brackets": (CLAUDE, b"event: message_start\ndata: " + DEEP + b"\n\n"),
    "responses, null response": (RESPONSES, sse({"type": "response.completed", "response": None})),
    "responses, null at its beginning": (RESPONSES, sse({"type": "response.created", "response": None})),
}
UNREADABLE_WHOLES: dict[str, tuple[str, Any]] = {
    "chat, no choices": (CHAT, completion([])),
    "chat, null choices": (CHAT, completion(None)),
    "chat, a null choice": (CHAT, completion([None])),
    "chat, a choice without message": (CHAT, completion([{"index": 0, "finish_reason": "stop"}])),
    "anthropic, null blocks": (CLAUDE, anthropic(None)),
    "anthropic, null text": (CLAUDE, anthropic([{"type": "text", "text": None}])),
    "anthropic, an unknown block": (CLAUDE, anthropic([{"type": "odd", "x": 1}])),
    "responses, null output": (RESPONSES, response(None)),
    "responses, null content": (RESPONSES, response([{**output_text("x"), "content": None}])),
}
UNREADABLE_BODIES = [b"", b"<html>Sign in</html>", b"{}", b"[]", b"null", b"3", b'{"id": "c", "choi', DEEP]


@pytest.mark.parametrize(("name", "body"), EMPTY_STREAMS.values(), ids=EMPTY_STREAMS)
async def test_an_empty_stream_is_tried_again_and_then_called_empty(name, body):
    failure, requests = await answered(name, body, streamed=True)
    assert isinstance(failure, RunFailure), failure
    assert (failure.code, failure.category, failure.retryable) == ("empty_answer", "model", True)
    assert requests == 2


@pytest.mark.parametrize(("name", "body"), EMPTY_WHOLES.values(), ids=EMPTY_WHOLES)
async def test_an_empty_answer_in_one_piece_is_tried_again_and_then_called_empty(name, body):
    failure, requests = await answered(name, json.dumps(body).encode(), streamed=False)
    assert isinstance(failure, RunFailure), failure
    assert (failure.code, failure.category, failure.retryable) == ("empty_answer", "model", True)
    assert requests == 2


@pytest.mark.parametrize(("name", "body"), UNREADABLE_STREAMS.values(), ids=UNREADABLE_STREAMS)
async def test_an_unreadable_stream_is_tried_again_and_then_called_so(name, body):
    failure, requests = await answered(name, body, streamed=True)
    assert isinstance(failure, RunFailure), failure
    assert (failure.code, failure.category, failure.retryable) == ("provider_bad_response", "model", True)
    assert requests == 2


@pytest.mark.parametrize(("name", "body"), UNREADABLE_WHOLES.values(), ids=UNREADABLE_WHOLES)
async def test_an_unreadable_answer_in_one_piece_is_tried_again_and_then_called_so(name, body):
    failure, requests = await answered(name, json.dumps(body).encode(), streamed=False)
    assert isinstance(failure, RunFailure), failure
    assert (failure.code, failure.category, failure.retryable) == ("provider_bad_response", "model", True)
    assert requests == 2


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
@pytest.mark.parametrize("body", UNREADABLE_BODIES, ids=lambda body: body[:12])
@pytest.mark.parametrize("name", [CHAT, CLAUDE, RESPONSES])
async def test_a_success_that_holds_no_answer_is_unreadable(name, body, content_type, streamed):
    failure, requests = await answered(name, body, streamed=streamed, content_type=content_type)
    assert isinstance(failure, RunFailure), failure
    assert failure.code == "provider_bad_response"
    assert requests == 2


ERROR = {"error": {"message": "upstream is gone", "code": 502}}
CLAUDE_ERROR = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("name", "error"), [(CHAT, ERROR), (CLAUDE, CLAUDE_ERROR), (RESPONSES, ERROR)])
async def test_an_error_inside_a_success_is_tried_again(name, error, streamed):
    body = sse(error, done=True) if streamed else json.dumps(error).encode()
    failure, requests = await answered(name, body, streamed=streamed)
    assert isinstance(failure, RunFailure), failure
    assert failure.code in {"provider_unavailable", "provider_bad_response"}
    assert failure.retryable
    assert requests == 2


@pytest.mark.parametrize(
    ("name", "empty", "full"),
    [
        (CHAT, sse(delta({"content": ""}, "stop")), sse(delta({"content": "Hi"}, "stop"))),
        (CLAUDE, anthropic_stream(), anthropic_stream(*block({"type": "text", "text": "Hi"}))),
        (
            RESPONSES,
            response_stream(),
            response_stream(
                {"type": "response.output_item.added", "output_index": 0, "item": output_text("")},
                {
                    "type": "response.output_text.delta",
                    "item_id": "x",
                    "output_index": 0,
                    "content_index": 0,
                    "delta": "Hi",
                },
                output=[output_text("Hi")],
            ),
        ),
    ],
)
async def test_the_next_try_may_bring_an_answer(name, empty, full):
    answer, requests = await answered(name, empty, full, streamed=True)
    assert isinstance(answer, ModelResponse), answer
    assert answer.text == "Hi"
    assert requests == 2


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (CHAT, sse(delta({"content": "Hi"}, "guardrail"), done=True)),
        (CLAUDE, anthropic_stream(*block({"type": "text", "text": "Hi"}), stop="odd")),
    ],
)
async def test_text_with_an_unknown_finish_reason_is_an_answer(name, body):
    answer, requests = await answered(name, body, streamed=True)
    assert isinstance(answer, ModelResponse), answer
    assert answer.text == "Hi"
    assert requests == 1


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (CHAT, sse(delta({}, "length"), done=True)),
        (CLAUDE, anthropic_stream(stop="max_tokens")),
        (
            RESPONSES,
            response_stream(
                last="response.incomplete", status="incomplete", incomplete_details={"reason": "max_output_tokens"}
            ),
        ),
    ],
)
async def test_an_answer_that_was_cut_off_before_its_first_word_is_not_called_empty(name, body):
    answer, requests = await answered(name, body, streamed=True)
    assert isinstance(answer, ModelResponse), answer
    assert answer.finish_reason == "length"
    assert requests == 1


async def test_a_response_that_is_still_in_progress_was_cut():
    failure, requests = await answered(RESPONSES, json.dumps(response([], "in_progress")).encode(), streamed=False)
    assert isinstance(failure, RunFailure), failure
    assert failure.code == "provider_stream_cut"
    assert requests == 2


async def test_reasoning_that_led_to_nothing_is_withdrawn():
    turns = (Turn(text="", reasoning="Let me see."), Turn(text="Here."))
    async with ScriptedProvider(Script(turns=turns)) as provider, gateway_for(provider) as gateway:
        sink = RecordingSink()
        with shown_to(sink):
            answer = await ask(gateway.model("openai:m"))
    assert answer.text == sink.joined() == "Here."
    assert sink.restarts == ["empty_answer"]


async def test_the_next_model_is_asked_when_one_keeps_saying_nothing():
    turns = (Turn(text=""), Turn(text=""), Turn(text="Here."))
    async with ScriptedProvider(Script(turns=turns)) as provider, gateway_for(provider, attempts=2) as gateway:
        answer = await ask(gateway.model("openai:m", fallback=["anthropic:m"]))
    assert (answer.text, answer.provider_name) == ("Here.", "anthropic")


async def test_whoever_takes_nothing_for_an_answer_gets_it():
    async with ScriptedProvider(Script(turns=[Turn(text="")])) as provider, gateway_for(provider) as gateway:
        token = may_be_empty.set(True)
        answer = await ask(gateway.model("openai:m"))
        may_be_empty.reset(token)
        assert answer.parts == []
        assert len(provider.requests) == 1


async def test_models_of_the_users_own_are_held_to_the_same():
    asked = 0

    def answer(messages, info):
        nonlocal asked
        asked += 1
        return ModelResponse(parts=[TextPart("")])

    async with ScriptedProvider() as provider, gateway_for(provider, attempts=3) as gateway:
        with pytest.raises(RunFailure) as caught:
            await ask(gateway.model(FunctionModel(answer)))
    assert caught.value.code == "empty_answer"
    assert asked == 3


@pytest.mark.parametrize(
    "part",
    [
        TextPart("Hi"),
        ToolCallPart("find"),
        FilePart(BinaryContent(b"x", media_type="image/png")),
        NativeToolCallPart("search"),
    ],
)
def test_a_part_that_holds_something_makes_an_answer(part):
    assert not is_empty(ModelResponse(parts=[ThinkingPart("Hm"), TextPart(""), part]))
    assert is_empty(ModelResponse(parts=[ThinkingPart("Hm"), TextPart("")]))
    assert not is_empty(ModelResponse(parts=[], state="suspended"))
