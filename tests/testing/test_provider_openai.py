"""The OpenAI wire, driven by OpenAI's own client."""

import asyncio
import json

import httpx2
import pytest
from openai import APIError, APIStatusError, AsyncAzureOpenAI, AsyncOpenAI, AuthenticationError, RateLimitError

from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Script, ToolCall, Turn, UsageReport

TEXT = "Zwölf Boxkämpfer jagen 🥊 Viktor\nüber den Deich."


def ask(text="hi", **options):
    return {"model": "gpt-test", "messages": [{"role": "user", "content": text}], **options}


async def stream_of(client, **options):
    return await client.chat.completions.create(**ask(stream=True, **options))


async def read(client, *, into):
    async for chunk in await stream_of(client):
        into.append(chunk)


async def test_a_whole_answer_holds_the_text_and_the_usage(provider, openai):
    provider.script = Script(turns=[Turn(text=TEXT)])
    answer = await openai.chat.completions.create(**ask("a question of 26 letters.."))
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-test"
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.completion_tokens == provider.requests[0].tokens_sent == -(-len(TEXT) // 4)


async def test_streamed_tokens_join_to_the_exact_text(provider, openai):
    provider.script = Script(turns=[Turn(text=TEXT)])
    chunks = [chunk async for chunk in await stream_of(openai)]
    tokens = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(tokens) == TEXT
    assert len([token for token in tokens if token]) == -(-len(TEXT) // 4)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_a_stream_ends_with_the_usage_when_asked_for_it(provider, openai):
    usage = UsageReport(input=1000, output=50, cached=800)
    provider.script = Script(turns=[Turn(text="hello", usage=usage)])
    chunks = [chunk async for chunk in await stream_of(openai, stream_options={"include_usage": True})]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 1000
    assert chunks[-1].usage.completion_tokens == 50
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 800


async def test_synthesized_tokens_are_distinct_and_the_same_every_time(provider, openai):
    provider.script = Script(turns=[Turn(tokens=300)])
    first, second = [
        [chunk.choices[0].delta.content async for chunk in await stream_of(openai) if chunk.choices[0].delta.content]
        for _ in range(2)
    ]
    assert first == second
    assert len(set(first)) == 300


async def test_a_stream_larger_than_one_write_arrives_whole(provider, openai):
    provider.script = Script(turns=[Turn(tokens=5000)])
    async with openai.chat.completions.with_streaming_response.create(**ask(stream=True)) as response:
        lines = [line async for line in response.iter_lines() if line.startswith("data: {")]
    assert len(lines) == 5002
    assert provider.requests[0].tokens_sent == 5000


async def test_reasoning_arrives_in_its_own_field_before_the_text(provider, openai):
    provider.script = Script(turns=[Turn(reasoning="Let me think.", text="Done.")])
    deltas = [chunk.choices[0].delta.model_dump() async for chunk in await stream_of(openai)]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Let me think."
    whole = await openai.chat.completions.create(**ask())
    assert whole.choices[0].message.model_extra["reasoning_content"] == "Let me think."
    assert whole.usage.completion_tokens_details.reasoning_tokens == 4


async def test_parallel_tool_calls_stream_as_fragments_with_unique_ids(provider, openai):
    calls = [ToolCall(name="weather", arguments={"city": "Zürich"}), ToolCall(name="time", arguments={"zone": "CET"})]
    provider.script = Script(turns=[Turn(tool_calls=calls)])
    gathered = [{"arguments": ""}, {"arguments": ""}]
    finish = None
    async for chunk in await stream_of(openai):
        finish = chunk.choices[0].finish_reason
        for part in chunk.choices[0].delta.tool_calls or []:
            call = gathered[part.index]
            call["id"] = part.id or call["id"]
            call["name"] = part.function.name or call["name"]
            call["arguments"] += part.function.arguments
    assert finish == "tool_calls"
    assert [call["id"] for call in gathered] == ["call_00000001_0", "call_00000001_1"]
    assert [json.loads(call["arguments"]) for call in gathered] == [{"city": "Zürich"}, {"zone": "CET"}]
    whole = await openai.chat.completions.create(**ask())
    assert [call.id for call in whole.choices[0].message.tool_calls] == ["call_00000002_0", "call_00000002_1"]


async def test_a_rate_limit_says_when_to_come_back(provider, openai):
    provider.script = Script(turns=[Turn(error=ErrorReply(status=429, retry_after=7))])
    with pytest.raises(RateLimitError) as raised:
        await openai.chat.completions.create(**ask())
    assert raised.value.response.headers["retry-after"] == "7"
    assert raised.value.code == "rate_limit_exceeded"
    assert FAKE_SECRET in raised.value.message
    assert provider.requests[0].outcome == "error 429"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
async def test_an_error_has_its_status_when_streaming_too(provider, openai, status):
    provider.script = Script(turns=[Turn(error=ErrorReply(status=status))])
    with pytest.raises(APIStatusError) as raised:
        await stream_of(openai)
    assert raised.value.status_code == status


async def test_a_wrong_key_is_refused_by_a_rule_on_the_key(provider, openai):
    provider.script = Script.parse("""
        rules: [{when: {api_key: sk-client-key-1234}, turn: {error: 401}}]
        turns: [hello]
    """)
    with pytest.raises(AuthenticationError):
        await openai.chat.completions.create(**ask())
    other = openai.with_options(api_key="sk-another")
    assert (await other.chat.completions.create(**ask())).choices[0].message.content == "hello"


async def test_a_cut_stream_breaks_off_after_the_tokens_it_says(provider, openai):
    provider.script = Script(turns=[Turn(tokens=20, cut_after_tokens=5)])
    received = []
    with pytest.raises((httpx2.TransportError, APIError)):
        await read(openai, into=received)
    assert len(received) == 6, "the role, then five tokens"
    await provider.wait_for_finished(1)
    assert (provider.requests[0].outcome, provider.requests[0].tokens_sent) == ("cut", 5)


async def test_a_cut_answer_that_is_not_streamed_breaks_off_too(provider, openai):
    provider.script = Script(turns=[Turn(tokens=20, cut_after_tokens=5)])
    with pytest.raises((httpx2.TransportError, APIError)):
        await openai.chat.completions.create(**ask())
    assert provider.requests[0].outcome == "cut"


async def test_a_malformed_chunk_reaches_the_client_after_the_first_token(provider, openai):
    provider.script = Script(turns=[Turn(tokens=20, malformed_chunk=True)])
    received = []
    with pytest.raises(json.JSONDecodeError):
        await read(openai, into=received)
    assert received[-1].choices[0].delta.content == "w000"
    await provider.wait_for_finished(1)
    assert provider.requests[0].outcome == "malformed"


async def test_an_error_in_mid_stream_is_an_event_of_the_stream(provider, openai):
    provider.script = Script(turns=[Turn(tokens=20, error=ErrorReply(status=503, after_tokens=3))])
    received = []
    with pytest.raises(APIError, match="503"):
        await read(openai, into=received)
    assert len(received) == 4
    assert (provider.requests[0].outcome, provider.requests[0].tokens_sent) == ("error 503", 3)


async def test_a_hang_ends_when_the_client_disconnects(provider, openai):
    provider.script = Script(turns=[Turn(hang=True)])
    waiting = asyncio.create_task(openai.chat.completions.create(**ask()))
    await provider.wait_for_requests(1)
    assert provider.requests[0].outcome is None
    waiting.cancel()
    await provider.wait_for_finished(1)
    assert (provider.requests[0].outcome, provider.requests[0].tokens_sent) == ("client_disconnected", 0)


@pytest.mark.parametrize(
    "turn",
    [Turn(text="x", delay=3600), Turn(text="x", first_token_delay=3600), Turn(text="x" * 8, tokens_per_second=0.001)],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_disconnect_is_seen_during_any_delay(provider, openai, turn, stream):
    provider.script = Script(turns=[turn])

    async def read_all():
        answer = await openai.chat.completions.create(**ask(stream=stream))
        if stream:
            [chunk async for chunk in answer]

    waiting = asyncio.create_task(read_all())
    await provider.wait_for_requests(1)
    waiting.cancel()
    await provider.wait_for_finished(1)
    assert provider.requests[0].outcome == "client_disconnected"


async def test_closing_a_stream_in_the_middle_is_logged_with_the_tokens_sent(provider, openai):
    provider.script = Script(turns=[Turn(tokens=20, hang_after_tokens=4)])
    stream = await stream_of(openai)
    async for chunk in stream:
        if chunk.choices[0].delta.content == " w003":
            break
    await stream.close()
    await provider.wait_for_finished(1)
    assert (provider.requests[0].outcome, provider.requests[0].tokens_sent) == ("client_disconnected", 4)


async def test_paced_tokens_take_the_time_they_should(provider, openai):
    provider.script = Script(turns=[Turn(tokens=6, tokens_per_second=50)])
    assert len([chunk async for chunk in await stream_of(openai)]) == 8
    record = provider.requests[0]
    assert record.ended_at - record.started_at >= 0.095


async def test_both_path_shapes_of_azure_are_answered(provider):
    provider.script = Script(turns=[Turn(text="hello from {model}")])
    async with AsyncAzureOpenAI(
        azure_endpoint=provider.url, api_key="azure-key-9876", api_version="2024-10-21", max_retries=0
    ) as client:
        answer = await client.chat.completions.create(**ask())
    assert answer.choices[0].message.content == "hello from gpt-test"
    async with AsyncOpenAI(base_url=f"{provider.url}/openai/v1", api_key="azure-key-9876", max_retries=0) as client:
        assert (await client.chat.completions.create(**ask())).choices[0].message.content == "hello from gpt-test"
    old, new = provider.requests
    assert (old.path, old.headers["api-key"]) == ("/openai/deployments/gpt-test/chat/completions", "***9876")
    assert new.path == "/openai/v1/chat/completions"


async def test_the_models_of_the_script_are_listed(provider, openai):
    provider.script = Script(turns=[Turn(text="x")], models=["small", "large"])
    assert [model.id async for model in openai.models.list()] == ["small", "large"]
