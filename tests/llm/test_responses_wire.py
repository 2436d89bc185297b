"""The short way of OpenAI's Responses changes nothing: same text shown, same message built."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from tests.llm.helpers import RecordingSink, ask, byte_server, gateway_for, watched_by
from tests.llm.test_short_way import SEVERAL, TEXTS, client, cut, framed, message_of, shown, travel

from pilothouse.errors import RunFailure
from pilothouse.llm.deltas import StreamTrace
from pilothouse.llm.shortway import ShortWay
from pilothouse.llm.wires import OpenAIResponses, wire_for_path
from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Script, ScriptedProvider, Turn

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 8,
}
LOGPROBS = [{"token": "x", "logprob": -0.5, "top_logprobs": []}]


def text_delta(text, *, item="msg_1", content=0, output=1, **more):
    place = {"item_id": item, "output_index": output, "content_index": content}
    return {"type": "response.output_text.delta", **place, "delta": text, "logprobs": [], **more}


def summary_delta(text, *, index=0):
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": index}
    return {"type": "response.reasoning_summary_text.delta", **place, "delta": text}


def reasoning_delta(text, *, content=0):
    place = {"item_id": "rs_1", "output_index": 0, "content_index": content}
    return {"type": "response.reasoning_text.delta", **place, "delta": text}


def call_added(number):
    call = {"type": "function_call", "id": f"fc_{number}", "call_id": f"c{number}", "name": "f", "arguments": ""}
    return {"type": "response.output_item.added", "output_index": 2, "item": {**call, "status": "in_progress"}}


def call_delta(number, text):
    place = {"item_id": f"fc_{number}", "output_index": 2}
    return {"type": "response.function_call_arguments.delta", **place, "delta": text}


def text_done(text):
    place = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    return {"type": "response.output_text.done", **place, "text": text, "logprobs": LOGPROBS}


def message_added(phase):
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
    return {"type": "response.output_item.added", "output_index": 1, "item": {**item, "phase": phase}}


def created(**more):
    return {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", **more}}


def finished(status="completed", **more):
    return {"type": f"response.{status}", "response": {**RESPONSE, "status": status, "usage": USAGE, **more}}


def numbered(events, *, first=0):
    """With sequence numbers, and padding of varying length on every other delta."""
    numbered_events = []
    for number, event in enumerate(events, first):
        padding = {"obfuscation": "x" * (number % 7)} if "delta" in event and number % 2 else {}
        numbered_events.append({"type": event["type"], "sequence_number": number, **event, **padding})
    return numbered_events


def on_the_wire(events, *, eol="\n", comments=False):
    return framed(numbered(events), eol=eol, named=True, comments=comments)


def events_in(out):
    return [json.loads(line[5:]) for line in out.splitlines() if line.startswith(b"data:")]


def responses_model(data):
    sdk = AsyncOpenAI(api_key="k", base_url="http://x/v1", http_client=client(data), max_retries=0)
    return OpenAIResponsesModel("m", provider=OpenAIProvider(openai_client=sdk))


EVENTS = st.lists(
    st.one_of(
        TEXTS.map(text_delta),
        TEXTS.map(text_delta),
        TEXTS.map(lambda text: text_delta(text, content=1)),
        TEXTS.map(lambda text: text_delta(text, item="msg_2", output=2)),
        TEXTS.map(lambda text: text_delta(text, logprobs=LOGPROBS)),
        TEXTS.map(summary_delta),
        TEXTS.map(lambda text: summary_delta(text, index=1)),
        TEXTS.map(reasoning_delta),
        TEXTS.map(lambda text: reasoning_delta(text, content=1)),
        TEXTS.map(lambda text: call_delta(1, text)),
        TEXTS.map(text_done),
        st.just(text_delta("")),
        st.just(call_added(1)),
        st.sampled_from(["commentary", "final_answer"]).map(message_added),
        st.just({"type": "response.in_progress", "response": {**RESPONSE, "status": "in_progress"}}),
        TEXTS.map(
            lambda text: {
                "type": "response.reasoning_summary_part.added",
                "item_id": "rs_1",
                "output_index": 0,
                "summary_index": 0,
                "part": {"type": "summary_text", "text": text},
            }
        ),
    ),
    max_size=14,
)
ENDS = st.sampled_from(
    [finished(), finished("incomplete", incomplete_details={"reason": "max_output_tokens"}), finished("failed")]
)


@SEVERAL
@given(EVENTS, ENDS, st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from(["\n", "\r\n"]), st.booleans())
async def test_any_stream_in_any_pieces_builds_the_message_it_would_have_built(events, end, places, eol, comments):
    data = on_the_wire([created(), *events, end], eol=eol, comments=comments)
    out, sink, way = travel(OpenAIResponses(), cut(data, places))
    whole, whole_sink, _ = travel(OpenAIResponses(), [data])
    assert way.ended
    assert out == whole
    assert shown(sink) == shown(whole_sink)
    assert await message_of(responses_model(out)) == await message_of(responses_model(data))


@SEVERAL
@given(EVENTS, st.lists(st.integers(0, 10**6), max_size=30))
def test_each_text_is_shown_once_and_in_order(events, places):
    _, sink, _ = travel(OpenAIResponses(), cut(on_the_wire([created(), *events, finished()]), places))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    reasoning = "".join(
        event["delta"] if "delta" in event else event["part"]["text"]
        for event in events
        if event["type"].startswith("response.reasoning")
    )
    assert sink.joined() == text
    assert sink.joined("reasoning") == reasoning


@SEVERAL
@given(EVENTS)
def test_all_but_deltas_pass_untouched_and_in_order_with_ascending_numbers(events):
    data = on_the_wire([created(), *events, finished()])
    out, _, _ = travel(OpenAIResponses(), [data])
    merges = {
        "response.output_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_text.delta",
        "response.function_call_arguments.delta",
    }
    given_events = events_in(data)
    passed = events_in(out)
    assert [event for event in passed if event["type"] not in merges] == [
        event for event in given_events if event["type"] not in merges
    ]
    numbers = [event["sequence_number"] for event in passed]
    assert numbers == sorted(set(numbers))


def test_a_hundred_deltas_reach_the_sdk_as_one_event_with_the_number_of_the_first():
    deltas = [text_delta(f" word{number}") for number in range(100)]
    data = on_the_wire([created(), *deltas, finished()])
    out, sink, _ = travel(OpenAIResponses(), [data[:5000], data[5000:]])
    text = "".join(f" word{number}" for number in range(100))
    assert [event["type"] for event in events_in(out)] == [
        "response.created",
        "response.output_text.delta",
        "response.completed",
    ]
    assert events_in(out)[1] == {**text_delta(text), "sequence_number": 1, "obfuscation": "x"}
    assert len([kind for kind, _ in sink.calls if kind == "text"]) == 2
    assert sink.joined() == text


@pytest.mark.parametrize(
    "other",
    [
        text_delta("c", item="msg_2"),
        text_delta("c", content=1),
        text_delta("c", output=2),
        text_delta("c", logprobs=LOGPROBS),
        text_delta("c", extra=1),
        {**text_delta("c"), "type": "response.refusal.delta"},
        reasoning_delta("c"),
    ],
)
def test_deltas_of_another_place_or_with_more_in_them_stay_apart(other):
    out, _, _ = travel(OpenAIResponses(), [on_the_wire([text_delta("a"), text_delta("b"), other, text_delta("d")])])
    assert [event["delta"] for event in events_in(out)] == ["ab", "c", "d"]


@pytest.mark.parametrize("key", ["created", "obfuscation", "sequence_number"])
def test_a_field_that_begins_to_vary_late_or_stands_within_a_text_changes_no_text(key):
    texts = ["a", "b", f'"{key}":1', "c", f'"{key}":"x"', "d", "e", "f"]
    events = [
        {**text_delta(text), "nested": {key: "same"}, key: 0 if number < 4 else number}
        for number, text in enumerate(texts)
    ]
    out, sink, _ = travel(OpenAIResponses(), [framed(events, eol="\n", named=True, comments=False)])
    assert sink.joined() == "".join(texts)
    assert [event["delta"] for event in events_in(out)] == ["".join(texts)]


def test_a_nested_field_that_varies_keeps_deltas_apart():
    events = [{**text_delta(text), "nested": {"created": number}} for number, text in enumerate("abcd")]
    out, _, _ = travel(OpenAIResponses(), [framed(events, eol="\n", named=True, comments=False)])
    assert out == framed(events, eol="\n", named=True, comments=False)


def test_refusals_and_arguments_are_not_shown():
    refusal = {**text_delta("no"), "type": "response.refusal.delta"}
    _, sink, _ = travel(OpenAIResponses(), [on_the_wire([created(), refusal, call_added(1), call_delta(1, "{}")])])
    assert shown(sink) == []


@pytest.mark.parametrize(
    ("last", "ended"),
    [
        (finished(), True),
        (finished("incomplete"), True),
        (finished("failed"), True),
        ({"type": "error", "code": "server_error", "message": "x", "param": None}, True),
        (created(), False),
        (text_delta("a"), False),
        ({"type": "response.output_item.done", "output_index": 0, "item": {}}, False),
    ],
)
def test_a_stream_is_whole_only_with_one_of_its_last_events(last, ended):
    way = ShortWay(OpenAIResponses(), StreamTrace(RecordingSink()))
    way.feed(on_the_wire([created(), text_delta("a"), last]) + b"data: [DONE]\n\n")
    way.finish()
    assert way.ended is way.may_stop is ended


def test_what_can_be_resumed_may_stop_and_is_not_merged():
    data = on_the_wire([created(background=True), text_delta("a"), text_delta("b")])
    out, sink, way = travel(OpenAIResponses(), [data])
    assert (way.ended, way.may_stop) == (False, True)
    assert out == data
    assert sink.joined() == "ab"


@pytest.mark.parametrize(
    ("path", "known"),
    [("/v1/responses", True), ("/openai/v1/responses", True), ("/v1/responses/resp_1", False), ("/v1/models", False)],
)
def test_the_wire_is_told_by_the_path(path, known):
    assert isinstance(wire_for_path(path), OpenAIResponses) is known


NAME = "openai-responses:m"


async def fails(server_or_provider, **kwargs):
    async with gateway_for(server_or_provider, **kwargs) as gateway:
        with watched_by(RecordingSink()) as sink, pytest.raises(RunFailure) as caught:
            await ask(gateway.model(NAME))
    return caught.value, sink


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (finished("failed", error={"code": "server_error", "message": "x"}), "provider_unavailable"),
        (finished("failed", error={"code": "rate_limit_exceeded", "message": "x"}), "provider_rate_limited"),
        (finished("failed"), "provider_unavailable"),
        ({"type": "error", "code": "server_error", "message": "x", "param": None}, "provider_unavailable"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "x", "param": None}, "provider_rate_limited"),
        ({"type": "error", "code": "insufficient_quota", "message": "x", "param": None}, "provider_quota"),
        ({"type": "error", "code": "context_length_exceeded", "message": "x", "param": None}, "context_too_long"),
        ({"type": "error", "code": "invalid_api_key", "message": "x", "param": None}, "provider_auth"),
    ],
)
async def test_an_error_in_the_stream_has_its_code_and_withdraws_what_was_shown(end, code):
    data = on_the_wire([created(), text_delta("Hi"), end])
    async with byte_server([[data]]) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        failure, sink = await fails(provider, attempts=2)
    assert failure.code == code
    transient = failure.category == "transient"
    assert len(server.requests) == (2 if transient else 1)
    assert sink.restarts == ([code] if transient else [])


async def test_a_stream_that_ends_cleanly_before_the_answer_does_was_cut():
    async with byte_server([[on_the_wire([created(), text_delta("Hi")])]]) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        failure, sink = await fails(provider, attempts=2)
    assert failure.code == "provider_stream_cut"
    assert sink.restarts == ["provider_stream_cut"]


@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (Turn(tokens=6, cut_after_tokens=3), "provider_stream_cut"),
        (Turn(tokens=6, error=ErrorReply(status=500, after_tokens=3)), "provider_unavailable"),
        (Turn(tokens=6, error=ErrorReply(status=429, after_tokens=3)), "provider_rate_limited"),
    ],
    ids=["cut", "server error", "rate limited"],
)
async def test_a_stream_that_breaks_begins_again_and_its_text_is_not_doubled(turn, code):
    async with ScriptedProvider(Script(turns=[turn, Turn(tokens=6)])) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(NAME))
    assert sink.restarts == [code]
    assert response.text == sink.joined() == "w000 w001 w002 w003 w004 w005"


async def test_a_malformed_answer_is_said_to_be_one_without_its_text():
    async with ScriptedProvider(Script(turns=[Turn(tokens=6, malformed_chunk=True)])) as provider:
        failure, _ = await fails(provider)
    assert failure.code == "provider_bad_response"
    assert FAKE_SECRET not in str(failure)


async def test_an_answer_cut_off_by_its_length_keeps_its_text():
    script = Script(turns=[Turn(tokens=6, finish_reason="length")])
    async with ScriptedProvider(script) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(NAME))
    assert response.finish_reason == "length"
    assert response.text == sink.joined() == "w000 w001 w002 w003 w004 w005"


async def test_a_server_that_holds_the_connection_after_the_end_is_not_waited_for():
    data = on_the_wire([created(), text_delta("Hi"), finished()])
    async with byte_server([[data]], hold=True) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, attempts=1) as gateway:
            with watched_by(RecordingSink()):
                response = await ask(gateway.model(NAME))
    assert response.text == "Hi"


def test_arguments_of_a_call_reach_the_sdk_in_few_events_and_are_not_shown():
    text = json.dumps({"text": "word " * 10_000})
    deltas = [call_delta(1, text[at : at + 3]) for at in range(0, len(text), 3)]
    out, sink, _ = travel(OpenAIResponses(), [on_the_wire([created(), call_added(1), *deltas, finished()])])
    merged = [event["delta"] for event in events_in(out) if event["type"] == deltas[0]["type"]]
    assert "".join(merged) == text
    assert len(merged) < 6
    assert shown(sink) == []
