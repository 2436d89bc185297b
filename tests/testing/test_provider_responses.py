"""OpenAI's Responses wire, driven by OpenAI's own client."""

import json

import httpx2
import pytest
from openai import APIError, RateLimitError

from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Script, ToolCall, Turn, UsageReport

TEXT = "Zwölf Boxkämpfer jagen 🥊 Viktor\nüber den Deich."
CALLS = [ToolCall(name="weather", arguments={"city": "Zürich"}), ToolCall(name="now")]


async def read(client, *, into):
    async for event in await client.responses.create(model="gpt-test", input="hi", stream=True):
        into.append(event)


async def events_of(client):
    events = []
    await read(client, into=events)
    return events


async def test_a_whole_answer_holds_the_text_and_the_usage(provider, openai):
    provider.script = Script(turns=[Turn(text=TEXT, usage=UsageReport(input=100, cached=80))])
    answer = await openai.responses.create(model="gpt-test", input="hi", instructions="Be brief.")
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert (answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens) == (100, 80)
    assert answer.usage.output_tokens == -(-len(TEXT) // 4)


async def test_events_are_numbered_without_a_gap_and_end_with_the_whole_response(provider, openai):
    provider.script = Script(turns=[Turn(reasoning="Let me think.", text=TEXT, tool_calls=CALLS)])
    events = await events_of(openai)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    assert [item.type for item in events[-1].response.output] == ["reasoning", "message", *["function_call"] * 2]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output


async def test_tool_calls_stream_as_fragments_with_unique_ids(provider, openai):
    provider.script = Script(turns=[Turn(tool_calls=CALLS)])
    events = await events_of(openai)
    fragments = [e.delta for e in events if e.type == "response.function_call_arguments.delta" and e.output_index == 0]
    assert len(fragments) > 1
    assert json.loads("".join(fragments)) == {"city": "Zürich"}
    assert [item.call_id for item in events[-1].response.output] == ["call_00000001_0", "call_00000001_1"]


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_cut_short_by_the_provider_is_incomplete(provider, openai, finish, reason):
    provider.script = Script(turns=[Turn(text="half a", finish_reason=finish)])
    last = (await events_of(openai))[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == reason


async def test_a_rate_limit_says_when_to_come_back(provider, openai):
    provider.script = Script(turns=[Turn(error=ErrorReply(status=429, retry_after=7))])
    with pytest.raises(RateLimitError, match=FAKE_SECRET) as raised:
        await events_of(openai)
    assert raised.value.response.headers["retry-after"] == "7"


async def test_an_error_in_mid_stream_is_an_event_of_the_stream(provider, openai):
    provider.script = Script(turns=[Turn(tokens=9, error=ErrorReply(status=500, after_tokens=3))])
    last = (await events_of(openai))[-1]
    assert (last.type, last.code) == ("error", "server_error")
    assert provider.requests[0].outcome == "error 500"


@pytest.mark.parametrize(
    ("trouble", "outcome"), [({"cut_after_tokens": 3}, "cut"), ({"malformed_chunk": True}, "malformed")]
)
async def test_a_broken_stream_raises(provider, openai, trouble, outcome):
    provider.script = Script(turns=[Turn(tokens=9, **trouble)])
    received = []
    with pytest.raises((httpx2.TransportError, APIError, ValueError)):
        await read(openai, into=received)
    assert any(event.type == "response.output_text.delta" for event in received)
    assert provider.requests[0].outcome == outcome
