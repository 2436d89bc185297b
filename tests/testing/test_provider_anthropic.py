"""The Anthropic wire, driven by Anthropic's own client."""

import asyncio

import anthropic as sdk
import httpx2
import pytest

from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Script, ToolCall, Turn, UsageReport

TEXT = "Zwölf Boxkämpfer jagen 🥊 Viktor\nüber den Deich."


def ask(text="hi", **options):
    return {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **options}


async def read_text(client, *, into):
    async with client.messages.stream(**ask()) as stream:
        async for token in stream.text_stream:
            into.append(token)


async def test_a_whole_answer_holds_the_text_and_the_usage(provider, anthropic):
    provider.script = Script(turns=[Turn(text=TEXT, usage=UsageReport(input=1000, cached=800))])
    answer = await anthropic.messages.create(**ask())
    assert answer.content[0].text == TEXT
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens) == (200, 800)
    assert answer.usage.output_tokens == -(-len(TEXT) // 4)


async def test_streamed_tokens_join_to_the_exact_text(provider, anthropic):
    provider.script = Script(turns=[Turn(text=TEXT)])
    async with anthropic.messages.stream(**ask()) as stream:
        tokens = [token async for token in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(tokens) == TEXT
    assert len(tokens) == final.usage.output_tokens == -(-len(TEXT) // 4)


async def test_the_events_come_in_the_order_of_the_real_wire(provider, anthropic):
    provider.script = Script(turns=[Turn(text="hi", tool_calls=[ToolCall(name="look")])])
    async with anthropic.messages.with_streaming_response.create(**ask(stream=True)) as response:
        events = [line.removeprefix("event: ") async for line in response.iter_lines() if line.startswith("event: ")]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert events == ["message_start", "ping", *block, *block, "message_delta", "message_stop"]


async def test_thinking_comes_first_and_is_signed(provider, anthropic):
    provider.script = Script(turns=[Turn(reasoning="Let me think.", text="Done.")])
    async with anthropic.messages.stream(**ask()) as stream:
        streamed = (await stream.get_final_message()).content
    whole = (await anthropic.messages.create(**ask())).content
    for content in (streamed, whole):
        assert [block.type for block in content] == ["thinking", "text"]
        assert content[0].thinking == "Let me think."
        assert content[0].signature


async def test_parallel_tool_calls_stream_as_fragments_with_unique_ids(provider, anthropic):
    calls = [ToolCall(name="weather", arguments={"city": "Zürich"}), ToolCall(name="now")]
    provider.script = Script(turns=[Turn(text="Looking.", tool_calls=calls)])
    async with anthropic.messages.stream(**ask()) as stream:
        streamed = await stream.get_final_message()
    whole = await anthropic.messages.create(**ask())
    for number, message in ((1, streamed), (2, whole)):
        assert message.stop_reason == "tool_use"
        assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
        assert [block.input for block in message.content[1:]] == [{"city": "Zürich"}, {}]
        assert [block.id for block in message.content[1:]] == [f"call_{number:08d}_0", f"call_{number:08d}_1"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (529, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_has_the_shape_of_the_wire(provider, anthropic, status, kind, stream):
    provider.script = Script(turns=[Turn(error=ErrorReply(status=status, retry_after=2.5))])
    with pytest.raises(sdk.APIStatusError) as raised:
        await anthropic.messages.create(**ask(stream=stream))
    assert raised.value.status_code == status
    assert raised.value.body["error"]["type"] == kind
    assert FAKE_SECRET in raised.value.body["error"]["message"]
    assert raised.value.response.headers["retry-after"] == "2.5"


async def test_an_overload_in_mid_stream_is_an_event_of_the_stream(provider, anthropic):
    provider.script = Script(turns=[Turn(tokens=9, error=ErrorReply(status=529, after_tokens=3))])
    received = []
    with pytest.raises(sdk.APIStatusError, match="overloaded_error"):
        await read_text(anthropic, into=received)
    assert len(received) == 3
    assert provider.requests[0].outcome == "error 529"


async def test_a_cut_stream_breaks_off_after_the_tokens_it_says(provider, anthropic):
    provider.script = Script(turns=[Turn(tokens=9, cut_after_tokens=3)])
    received = []
    with pytest.raises((httpx2.TransportError, sdk.APIError)):
        await read_text(anthropic, into=received)
    assert len(received) == 3
    assert provider.requests[0].outcome == "cut"


async def test_a_malformed_chunk_is_no_json(provider, anthropic):
    provider.script = Script(turns=[Turn(tokens=9, malformed_chunk=True)])
    with pytest.raises(ValueError, match="Expecting value"):
        async with anthropic.messages.stream(**ask()) as stream:
            [event async for event in stream]
    whole = pytest.raises((ValueError, sdk.APIError))
    with whole:
        await anthropic.messages.create(**ask())
    assert [record.outcome for record in provider.requests] == ["malformed", "malformed"]


async def test_a_hang_ends_when_the_client_disconnects(provider, anthropic):
    provider.script = Script(turns=[Turn(hang=True)])
    waiting = asyncio.create_task(anthropic.messages.create(**ask()))
    await provider.wait_for_requests(1)
    waiting.cancel()
    await provider.wait_for_finished(1)
    assert provider.requests[0].outcome == "client_disconnected"


async def test_models_and_token_counts_are_answered(provider, anthropic):
    provider.script = Script(turns=[Turn(text="x")], models=["small", "large"])
    assert [model.id async for model in anthropic.models.list()] == ["small", "large"]
    question = ask("twelve chars")
    del question["max_tokens"]
    assert (await anthropic.messages.count_tokens(**question)).input_tokens == 3
