"""Answers that are none, and answers without an end."""

import asyncio
import tracemalloc

import aiohttp
import pytest
from openai import AsyncOpenAI

from pilothouse.testing import Script, ScriptedProvider, Turn
from pilothouse.testing.provider import RawReply


def asking(**values):
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **values}


async def raw_answer(provider: ScriptedProvider, **values):
    async with aiohttp.ClientSession() as session:
        url = f"{provider.openai_base_url}/chat/completions"
        async with session.post(url, json=asking(**values)) as response:
            return response.status, response.content_type, await response.text()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_raw_reply_is_sent_as_it_is(provider: ScriptedProvider, stream: bool) -> None:
    provider.script = Script(turns=[Turn(raw=RawReply(body="data: {}\n\n", repeat=3)), Turn(raw=RawReply(body=""))])
    assert await raw_answer(provider, stream=stream) == (200, "text/event-stream", "data: {}\n\n" * 3)
    assert await raw_answer(provider, stream=stream) == (200, "text/event-stream", "")
    assert [record.outcome for record in provider.requests] == ["raw", "raw"]


async def test_a_reply_that_is_not_http_breaks_the_connection(provider: ScriptedProvider) -> None:
    provider.script = Script(turns=[Turn(raw=RawReply(body="SSH-2.0-what\r\n", http=False))])
    with pytest.raises(aiohttp.ClientError):
        await raw_answer(provider)


async def test_a_trickling_reply_arrives_byte_by_byte(provider: ScriptedProvider) -> None:
    provider.script = Script(turns=[Turn(raw=RawReply(body="abc", bytes_per_second=100))])
    async with aiohttp.ClientSession() as session:
        url = f"{provider.openai_base_url}/chat/completions"
        async with session.post(url, json=asking()) as response:
            pieces = [piece async for piece in response.content.iter_any()]
    assert pieces == [b"a", b"b", b"c"]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_last_token_is_repeated_as_often_as_the_script_says(openai: AsyncOpenAI, provider, stream) -> None:
    provider.script = Script(turns=[Turn(text="begin end\n", token_characters=5, repeat_last_token=1000)])
    answer = await openai.chat.completions.create(**asking(stream=stream))
    if stream:
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
    else:
        text = answer.choices[0].message.content
    assert text == "begin" + " end\n" * 1001


async def test_an_endless_answer_goes_on_until_its_reader_leaves_and_fills_no_memory(provider, openai) -> None:
    provider.script = Script(turns=[Turn(text="x" * 8192, token_characters=4096, repeat_last_token="forever")])
    tracemalloc.start()
    try:
        stream = await openai.chat.completions.create(**asking(stream=True))
        size = 0
        async for chunk in stream:
            size += len(chunk.choices[0].delta.content or "")
            if size > 20_000_000:
                break
        await stream.close()
        await provider.wait_for_finished(1)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 10_000_000
    assert provider.requests[0].outcome == "client_disconnected"


async def test_a_slow_reader_of_an_endless_answer_leaves_time_for_others(provider, openai) -> None:
    provider.script = Script(
        turns=[Turn(text="x" * 8192, token_characters=4096, repeat_last_token="forever"), Turn(text="quick")]
    )
    stream = await openai.chat.completions.create(**asking(stream=True))
    async with asyncio.timeout(60):
        answer = await openai.chat.completions.create(**asking())
    assert answer.choices[0].message.content == "quick"
    await stream.close()


@pytest.mark.parametrize("turn", [{"tokens": 3}, {"text": ""}, {"text": "x", "tool_calls": [{"name": "look"}]}])
def test_a_token_to_repeat_is_needed(turn) -> None:
    with pytest.raises(ValueError, match="needs a `text`"):
        Turn(repeat_last_token=1, **turn)
