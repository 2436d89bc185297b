"""How much a model may send: against servers that send without end, through the real SDKs."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.function import DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from tests.llm.answers import (
    EndlessServer,
    anthropic,
    asking,
    block,
    delta,
    endless_server,
    head,
    response,
    shown_to,
    sse,
)
from tests.llm.helpers import RecordingSink, ask, byte_server, gateway_for

from pilothouse.errors import RunFailure
from pilothouse.llm.bounds import AnswerLimits, AnswerMeter
from pilothouse.llm.sse import EventMeter
from pilothouse.settings import ModelSettings
from pilothouse.testing.provider import ScriptedProvider

STREAM = head("text/event-stream")
JSON = head("application/json")
MEGABYTE = 1_000_000
# What sockets and their readers on both sides hold beside what is bounded here.
IN_SOCKETS = 8 * MEGABYTE
SMALL = {
    "max_stream_bytes": 300_000,
    "max_event_bytes": 200_000,
    "max_answer_chars": 50_000,
    "max_argument_chars": 20_000,
}

CHAT_TEXT = sse(delta({"content": "word " * 20}))
CLAUDE_START = sse({"type": "message_start", "message": anthropic([], None)}, *block({"type": "text", "text": ""})[:1])
CLAUDE_TEXT = sse(*block({"type": "text", "text": ""}, {"type": "text_delta", "text": "word " * 20})[1:2])
RESPONSES_START = sse({"type": "response.created", "response": response([], "in_progress"), "sequence_number": 0})
RESPONSES_TEXT = sse(
    {
        "type": "response.output_text.delta",
        "item_id": "x",
        "output_index": 0,
        "content_index": 0,
        "delta": "word " * 20,
        "sequence_number": 1,
    }
)


def chat_arguments(text: str, **first: object) -> bytes:
    return sse(delta({"tool_calls": [{"index": 0, "function": {"arguments": text}, **first}]}))


CHAT_CALL = sse(
    delta({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}]})
)
CLAUDE_CALL = sse(
    {"type": "message_start", "message": anthropic([], None)},
    *block({"type": "tool_use", "id": "a", "name": "f", "input": {}})[:1],
)
CLAUDE_ARGUMENTS = sse(
    {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "abc"}}
)


async def refused(server: EndlessServer, name: str, *, streamed: bool = True, **models: int) -> RunFailure:
    """The failure of a call to an endless server, which must have been left at once and not asked again."""
    async with asking(server, name, **models) as model:
        with shown_to(RecordingSink() if streamed else None), pytest.raises(RunFailure) as caught:
            await asyncio.wait_for(ask(model), 60)
        await asyncio.wait_for(server.left.wait(), 60)
    failure = caught.value
    assert (failure.code, failure.category, failure.retryable) == ("model_answer_too_large", "model", False)
    assert server.requests == 1
    return failure


ENDLESS = {
    "chat, text": ("openai-chat:m", b"", CHAT_TEXT),
    "chat, reasoning": ("openai-chat:m", b"", sse(delta({"reasoning_content": "word " * 20}))),
    "chat, arguments": ("openai-chat:m", CHAT_CALL, chat_arguments("abc")),
    "chat, one event": ("openai-chat:m", b"data: {", b"x" * 10_000),
    "chat, one name": ("openai-chat:m", b"event: ", b"x" * 10_000),
    "chat, lines of one event": ("openai-chat:m", b"", b"data: {}\n" * 1000),
    "chat, comments": ("openai-chat:m", b"", b": heartbeat\n\n" * 1000),
    "chat, blank lines": ("openai-chat:m", b"", b"\r\n" * 1000),
    "chat, usage": ("openai-chat:m", b"", b'data: {"choices": [], "usage": null}\n\n' * 100),
    "anthropic, text": ("anthropic:m", CLAUDE_START, CLAUDE_TEXT),
    "anthropic, arguments": ("anthropic:m", CLAUDE_CALL, CLAUDE_ARGUMENTS),
    "anthropic, pings": ("anthropic:m", b"", sse({"type": "ping"}) * 100),
    "anthropic, one event": ("anthropic:m", b"event: message_start\rdata: ", b"x" * 10_000),
    "responses, text": ("openai-responses:m", RESPONSES_START, RESPONSES_TEXT),
    "responses, one event": ("openai-responses:m", b"data: {", b"x" * 10_000),
}


@pytest.mark.parametrize(("name", "first", "piece"), ENDLESS.values(), ids=ENDLESS)
async def test_a_stream_without_end_is_left_at_its_bound(name, first, piece):
    async with endless_server(STREAM, piece, first=first) as server:
        await refused(server, name, **SMALL)
        assert server.sent < SMALL["max_stream_bytes"] + IN_SOCKETS


async def test_the_sentence_names_the_bound():
    async with endless_server(STREAM, CHAT_TEXT) as server:
        failure = await refused(server, "openai-chat:m", **SMALL)
    assert "50000 characters of text" in failure.message


async def test_text_is_shown_up_to_the_bound_and_not_past_it():
    sink = RecordingSink()
    async with endless_server(STREAM, CHAT_TEXT) as server, asking(server, "openai-chat:m", **SMALL) as model:
        with shown_to(sink), pytest.raises(RunFailure):
            await ask(model)
    assert 0 < len(sink.joined()) <= SMALL["max_answer_chars"]
    assert sink.restarts == []


@pytest.mark.parametrize("name", ["openai-chat:m", "anthropic:m", "openai-responses:m"])
async def test_an_answer_in_one_piece_without_end_is_left_at_its_bound(name):
    async with endless_server(JSON, b"x" * 10_000, first=b'{"id": "') as server:
        await refused(server, name, streamed=False, **SMALL)
        assert server.sent < SMALL["max_event_bytes"] + IN_SOCKETS


async def test_by_default_fifty_megabytes_take_no_more_memory_than_the_bound_of_text():
    async with endless_server(STREAM, sse(delta({"content": "word " * 2_000}))) as server:
        tracemalloc.start()
        await refused(server, "openai-chat:m")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12 * ModelSettings().max_answer_chars


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(("content_type", "streamed"), [("application/json", False), ("text/event-stream", True)])
async def test_a_small_body_that_holds_a_gigabyte_is_not_unpacked(encoding, content_type, streamed):
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    bomb = b"".join([packer.compress(bytes(10 * MEGABYTE)) for _ in range(100)])
    encoded = head(content_type, f"Content-Encoding: {encoding}")
    async with byte_server([[bomb]], head=encoded) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider) as gateway:
            tracemalloc.start()
            with shown_to(RecordingSink() if streamed else None), pytest.raises(RunFailure) as caught:
                await ask(gateway.model("openai-chat:m"))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert caught.value.code == "model_answer_too_large"
    assert peak < 10 * ModelSettings().max_event_bytes
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"x" * 100_000)),
        ("x-gzip", gzip.compress(b"x" * 100_000)),
        ("deflate", zlib.compress(b"x" * 100_000)),
        ("deflate", zlib.compress(b"x" * 100_000, wbits=-15)),
        ("identity", b"x" * 100_000),
    ],
)
async def test_what_is_encoded_as_it_says_is_decoded(encoding, body):
    encoded = head("text/plain", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}")
    async with byte_server([[body]], head=encoded) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider) as gateway:
            answer = await gateway._http_client.get(server.url)
    assert answer.content == b"x" * 100_000
    assert "content-encoding" not in answer.headers or encoding == "identity"
    assert b"accept-encoding: gzip, deflate\r\n" in server.requests[0].lower()


@pytest.mark.parametrize(("encoding", "body"), [("br", b"x"), ("gzip", b"not gzip at all"), ("gzip, gzip", b"x")])
async def test_what_can_not_be_decoded_fails_as_unreachable_answers_do(encoding, body):
    encoded = head("application/json", f"Content-Encoding: {encoding}")
    async with byte_server([[body]], head=encoded) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, attempts=2) as gateway:
            with pytest.raises(RunFailure) as caught:
                await ask(gateway.model("openai-chat:m"))
    assert caught.value.code == "provider_unavailable"
    assert len(server.requests) == 2


@pytest.mark.parametrize("name", ["openai-chat:m", "anthropic:m"])
async def test_an_error_with_an_endless_page_is_still_that_error(name):
    failing = head("text/html", status="503 Service Unavailable")
    async with endless_server(failing, b"<p>sorry</p>" * 1000) as server, asking(server, name) as model:
        with pytest.raises(RunFailure) as caught:
            await asyncio.wait_for(ask(model), 60)
        await asyncio.wait_for(server.left.wait(), 60)
    assert caught.value.code == "provider_unavailable"
    assert server.requests == 2


async def test_a_head_without_end_is_no_answer():
    endless = endless_server(b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n")
    async with endless as server, asking(server, "openai-chat:m") as model:
        with shown_to(RecordingSink()), pytest.raises(RunFailure) as caught:
            await asyncio.wait_for(ask(model), 60)
        await asyncio.wait_for(server.left.wait(), 60)
    assert caught.value.code == "provider_unavailable"
    assert server.sent < IN_SOCKETS


async def test_a_stream_of_too_many_parts_is_stopped():
    def call(index: int) -> bytes:
        function = {"name": "f", "arguments": "{}"}
        return sse(
            delta({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function", "function": function}]})
        )

    calls = [call(index) for index in range(12)] + [sse(delta({}, "tool_calls"), done=True)]
    async with byte_server([calls]) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, max_answer_parts=10) as gateway:
            with shown_to(RecordingSink()), pytest.raises(RunFailure) as caught:
                await ask(gateway.model("openai-chat:m"))
        async with gateway_for(provider, max_answer_parts=12) as gateway:
            with shown_to(RecordingSink()):
                answer = await ask(gateway.model("openai-chat:m"))
    assert "more than 10 parts" in caught.value.message
    assert len(answer.parts) == 12


@pytest.mark.parametrize("piece", [CHAT_TEXT, chat_arguments("abc" * 30)], ids=["text", "arguments"])
async def test_a_client_of_the_users_own_is_bounded_too(piece):
    async with endless_server(STREAM, piece, first=CHAT_CALL if piece is not CHAT_TEXT else b"") as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        client = AsyncOpenAI(api_key="k", base_url=url, http_client=httpx2.AsyncClient(), max_retries=0)
        own = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        async with gateway_for(ScriptedProvider(), **SMALL) as gateway:
            with shown_to(RecordingSink()), pytest.raises(RunFailure) as caught:
                await ask(gateway.model(own))
        await asyncio.wait_for(server.left.wait(), 60)
        await client.close()
    assert caught.value.code == "model_answer_too_large"


async def _endless_text(messages, info) -> AsyncIterator[str]:
    while True:
        yield "word " * 20


async def _endless_thinking(messages, info) -> AsyncIterator[dict[int, DeltaThinkingPart]]:
    while True:
        yield {0: DeltaThinkingPart(content="word " * 20)}


async def _endless_arguments(messages, info) -> AsyncIterator[dict[int, DeltaToolCall]]:
    yield {0: DeltaToolCall(name="f", json_args="{")}
    while True:
        yield {0: DeltaToolCall(json_args="abc")}


@pytest.mark.parametrize("stream", [_endless_text, _endless_thinking, _endless_arguments])
async def test_a_model_that_is_a_function_is_bounded_and_leaves_the_loop_to_others(stream):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    async with gateway_for(ScriptedProvider(), **SMALL) as gateway:
        with shown_to(RecordingSink()), pytest.raises(RunFailure) as caught:
            await ask(gateway.model(FunctionModel(stream_function=stream)))
    task.cancel()
    assert caught.value.code == "model_answer_too_large"
    assert turns > 10


@pytest.mark.parametrize(
    "part",
    [
        TextPart("x" * 60_000),
        ThinkingPart("x" * 60_000),
        ToolCallPart("f", "x" * 30_000),
        ToolCallPart("f", {"a": ["x" * 10_000] * 3}),
        ToolCallPart("x" * 30_000),
    ],
)
async def test_a_function_that_gives_too_much_at_once_is_refused(part):
    async with gateway_for(ScriptedProvider(), **SMALL) as gateway:
        with pytest.raises(RunFailure) as caught:
            await ask(gateway.model(FunctionModel(lambda *_: ModelResponse(parts=[part]))))
    assert caught.value.code == "model_answer_too_large"


def test_the_arguments_of_each_call_are_counted_apart():
    meter = AnswerMeter(AnswerLimits(argument_chars=10, chars=5, parts=3))
    meter.whole([ToolCallPart("f", "12345678"), ToolCallPart("f", "12345678"), TextPart("12345")])
    with pytest.raises(RunFailure):
        meter.text(1)


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_bytes_of_an_event_are_counted_from_its_beginning_however_they_arrive(line_end, size):
    data = line_end.join([b"data: one", b"", b": two", b"", b"data: three", b"data: fo"])
    meter = EventMeter()
    counts = [meter.feed(data[at : at + size]) for at in range(0, len(data), size)]
    begun = len(data) - data.index(b"data: three")
    # Of a blank line that ends in LF after CR, the LF is counted too.
    assert begun <= counts[-1] < begun + len(line_end)
    assert max(counts) <= max(begun, size) + 2 * len(line_end)
