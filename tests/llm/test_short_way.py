"""The short way changes nothing: same text shown, same message built, however the bytes arrive."""

import json
from itertools import pairwise

import httpx2
import pytest
from anthropic import AsyncAnthropic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from tests.llm.helpers import RecordingSink

from pilothouse.llm.deltas import StreamTrace
from pilothouse.llm.shortway import ShortWay
from pilothouse.llm.wires import AnthropicMessages, OpenAIChat

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    st.sampled_from(
        [" ", "\n\n", "<think>", "</think>", "<th", "ink>", "<", ">", "é", "日本", "👩‍👩‍👧", '"', "\\", "data: x\n\n"]
    ),
)
SEVERAL = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def openai_chunk(delta, *, finish=None, **more):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, **more.pop("choice", {})}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return {**chunk, **more}


OPENAI_EVENTS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: openai_chunk({"content": text})),
        TEXTS.map(lambda text: openai_chunk({"content": text}, created=2, obfuscation="xyz")),
        TEXTS.map(lambda text: openai_chunk({"content": text, "role": "assistant"}, model="other")),
        TEXTS.map(lambda text: openai_chunk({"reasoning_content": text, "content": None})),
        TEXTS.map(lambda text: openai_chunk({"reasoning": text})),
        TEXTS.map(lambda text: openai_chunk({"content": text, "reasoning_content": text})),
        TEXTS.map(
            lambda text: openai_chunk(
                {"content": text}, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
            )
        ),
        TEXTS.map(lambda text: openai_chunk({"content": text}, choice={"index": 1})),
        st.just(openai_chunk({"role": "assistant", "content": ""})),
        st.just(openai_chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]})),
        TEXTS.map(lambda text: openai_chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})),
        TEXTS.map(
            lambda text: openai_chunk({"content": None, "tool_calls": [{"index": 1, "function": {"arguments": text}}]})
        ),
        TEXTS.map(
            lambda text: openai_chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"arguments": text}}]})
        ),
        st.just({**openai_chunk({}), "choices": []}),
    ),
    max_size=12,
)
ANTHROPIC_BLOCKS = st.lists(
    st.tuples(st.sampled_from(["text", "thinking"]), st.lists(TEXTS, max_size=6), st.booleans()), max_size=4
)


def framed(events, *, eol, named, comments):
    """Events on the wire."""
    lines = []
    for number, event in enumerate(events):
        if comments and number % 3 == 1:
            lines.append(f": keep-alive{eol}{eol}")
        name = f"event: {event['type']}{eol}" if named else ""
        lines.append(f"{name}data: {json.dumps(event, ensure_ascii=number % 2 == 0)}{eol}{eol}")
    return "".join(lines).encode()


def cut(data, places):
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


def travel(wire, pieces):
    sink = RecordingSink()
    way = ShortWay(wire, StreamTrace(sink))
    out = b"".join([part for piece in pieces if piece for part in way.feed(piece)])
    return out + b"".join(way.finish()), sink, way


def shown(sink):
    """The deltas, consecutive ones of a kind joined."""
    joined = []
    for kind, text in sink.calls:
        if kind == "first_byte":
            continue
        if joined and joined[-1][0] == kind:
            joined[-1][1] += text
        else:
            joined.append([kind, text])
    return joined


def client(data):
    head = {"content-type": "text/event-stream"}
    return httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, headers=head, content=data))
    )


async def message_of(model):
    """What the agent loop makes of a stream, or the kind of error it ends in."""
    parameters = ModelRequestParameters()
    try:
        async with model.request_stream([ModelRequest(parts=[UserPromptPart("hi")])], None, parameters) as stream:
            async for _ in stream:
                pass
    except (ModelAPIError, IndexError) as error:  # Pydantic AI trips over some of these streams by itself
        return type(error)
    response = stream.get()
    return (
        [
            (
                part.part_kind,
                getattr(part, "content", None),
                getattr(part, "args", None),
                getattr(part, "signature", None),
            )
            for part in response.parts
        ],
        response.usage,
        response.finish_reason,
        response.model_name,
        response.provider_response_id,
    )


def openai_model(data):
    profile = OpenAIModelProfile(ignore_streamed_leading_whitespace=True)
    return OpenAIChatModel(
        "m",
        profile=profile,
        provider=OpenAIProvider(
            openai_client=AsyncOpenAI(api_key="k", base_url="http://x/v1", http_client=client(data), max_retries=0)
        ),
    )


def anthropic_model(data):
    return AnthropicModel(
        "m",
        provider=AnthropicProvider(
            anthropic_client=AsyncAnthropic(api_key="k", base_url="http://x", http_client=client(data), max_retries=0)
        ),
    )


@SEVERAL
@given(OPENAI_EVENTS, st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from(["\n", "\r\n"]), st.booleans())
async def test_any_openai_stream_in_any_pieces_builds_the_message_it_would_have_built(events, places, eol, comments):
    events = [openai_chunk({"role": "assistant", "content": ""}), *events, openai_chunk({}, finish="stop")]
    data = framed(events, eol=eol, named=False, comments=comments) + b"data: [DONE]\n\n"
    out, sink, way = travel(OpenAIChat(), cut(data, places))
    assert way.ended
    whole, whole_sink, _ = travel(OpenAIChat(), [data])
    assert out == whole
    assert shown(sink) == shown(whole_sink)
    assert await message_of(openai_model(out)) == await message_of(openai_model(data))


@pytest.mark.parametrize(
    "texts",
    [
        [" ", "Hello"],
        ["\n", "\n", "Hello", " ", "there"],
        ["<th", "ink>"],
        ["<", "think>", "x"],
        ["a", "<think>", "b", "c", "</think>", " ", "d", "e"],
        ["x", "fp", "y", "fp", "z"],
        ["a", "b", "<b>", "c", "<think>", "d"],
    ],
)
async def test_texts_that_mean_something_alone_are_not_merged_into_others(texts):
    events = [openai_chunk({"content": text}, system_fingerprint="fp") for text in texts]
    data = framed([*events, openai_chunk({}, finish="stop")], eol="\n", named=False, comments=False)
    out, sink, _ = travel(OpenAIChat(), [data])
    message = await message_of(openai_model(data))
    assert await message_of(openai_model(out)) == message
    # White space that the message drops at the start of a text is shown all the same.
    text = "".join(content for kind, content, *_ in message[0] if kind == "text")
    assert "".join(sink.joined().split()) == "".join(text.split())


@pytest.mark.parametrize(
    "other",
    [
        {"model": "other"},
        {"id": "c2"},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
        {"choice": {"index": 1}},
        {"choice": {"logprobs": {"content": []}}},
        {"choice": {"content_filter_results": {"hate": {"filtered": False}}}},
    ],
)
def test_events_that_differ_in_more_than_their_text_stay_apart(other):
    events = [openai_chunk({"content": "a"}), openai_chunk({"content": "b"}), openai_chunk({"content": "c"}, **other)]
    out, sink, _ = travel(OpenAIChat(), [framed(events, eol="\n", named=False, comments=False)])
    assert out.count(b"data:") == 2
    assert sink.joined() == "abc"


def test_a_time_and_padding_that_change_with_each_event_do_not_keep_them_apart():
    events = [openai_chunk({"content": "a"}, created=number, obfuscation="x" * number) for number in range(9)]
    out, sink, _ = travel(OpenAIChat(), [framed(events, eol="\n", named=False, comments=False)])
    assert out.count(b"data:") == 1
    assert json.loads(out[5:])["created"] == 0
    assert sink.joined() == "a" * 9


@SEVERAL
@given(ANTHROPIC_BLOCKS, st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from(["\n", "\r\n"]))
async def test_any_anthropic_stream_in_any_pieces_builds_the_message_it_would_have_built(blocks, places, eol):
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    events = [{"type": "message_start", "message": message}]
    expected = []
    for index, (kind, texts, pings) in enumerate(blocks):
        start = {"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {})
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        for text in texts:
            events.append(
                {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", kind: text}}
            )
            expected.append(("text" if kind == "text" else "reasoning", text))
            if pings:
                events.append({"type": "ping"})
        if kind == "thinking":
            events.append(
                {"type": "content_block_delta", "index": index, "delta": {"type": "signature_delta", "signature": "s"}}
            )
        events.append({"type": "content_block_stop", "index": index})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 9},
        }
    )
    events.append({"type": "message_stop"})
    data = framed(events, eol=eol, named=True, comments=False)
    out, sink, way = travel(AnthropicMessages(), cut(data, places))
    assert way.ended
    assert "".join(text for _, text in shown(sink)) == "".join(text for _, text in expected)
    assert sink.joined("reasoning") == "".join(text for kind, text in expected if kind == "reasoning")
    assert await message_of(anthropic_model(out)) == await message_of(anthropic_model(data))


@SEVERAL
@given(st.binary(max_size=400), st.lists(st.integers(0, 10**6), max_size=10))
def test_bytes_that_are_no_events_pass_untouched(noise, places):
    noise = noise.replace(b"data:", b"date:")
    out, sink, _ = travel(OpenAIChat(), cut(noise, places))
    assert out == noise
    assert shown(sink) == []


def test_many_deltas_reach_the_sdk_as_one_event_and_the_sink_as_one_call_a_read():
    events = [openai_chunk({"content": f" word{number}"}) for number in range(100)]
    data = framed(events, eol="\n", named=False, comments=False)
    out, sink, _ = travel(OpenAIChat(), [data[:5000], data[5000:]])
    assert out.count(b"data:") == 1
    assert len([kind for kind, _ in sink.calls if kind == "text"]) == 2
    assert sink.joined() == "".join(f" word{number}" for number in range(100))


@pytest.mark.parametrize(
    "line",
    [
        b'data: {"broken',
        b"data: [1]",
        b'data: {"choices": 3}',
        b'data: {"choices": [null]}',
        b'data: {"choices":[{"delta":{"content":{"a":1}}}]}',
        b"id: 4",
        b"data:",
        b"\xff\xfe",
    ],
)
def test_an_event_of_another_shape_passes_untouched_and_in_order(line):
    before = framed(
        [openai_chunk({"content": "a"}), openai_chunk({"content": "b"})], eol="\n", named=False, comments=False
    )
    out, sink, _ = travel(OpenAIChat(), [before + line + b"\n\n" + before])
    assert out.count(line + b"\n\n") == 1
    assert out.split(line + b"\n\n")[0].count(b"data:") == 1
    assert sink.joined() == "abab"


def test_arguments_of_a_call_reach_the_sdk_in_few_events_and_are_not_shown():
    def call(text):
        return openai_chunk({"content": None, "tool_calls": [{"index": 0, "function": {"arguments": text}}]})

    text = json.dumps({"text": "word " * 10_000})
    first = openai_chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]})
    deltas = [call(text[at : at + 3]) for at in range(0, len(text), 3)]
    out, sink, _ = travel(OpenAIChat(), [framed([first, *deltas], eol="\n", named=False, comments=False)])
    events = [json.loads(event[5:]) for event in out.split(b"\n\n") if event]
    calls = [event["choices"][0]["delta"]["tool_calls"][0]["function"] for event in events]
    assert "".join(call["arguments"] for call in calls) == text
    assert calls[0] == {"name": "f", "arguments": ""}
    assert len(calls) < 7
    assert shown(sink) == []


def test_arguments_of_two_calls_stay_apart():
    def call(index, text):
        return openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]})

    events = [call(0, "a"), call(0, "b"), call(1, "c"), call(1, "d"), call(0, "e")]
    out, _, _ = travel(OpenAIChat(), [framed(events, eol="\n", named=False, comments=False)])
    given = [json.loads(event[5:])["choices"][0]["delta"]["tool_calls"][0] for event in out.split(b"\n\n") if event]
    assert [(call["index"], call["function"]["arguments"]) for call in given] == [(0, "ab"), (1, "cd"), (0, "e")]


async def test_arguments_of_anthropic_are_merged_to_the_same_message():
    start = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    text = json.dumps({"text": "word " * 100})
    message = {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    events = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": start},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": text[at : at + 3]},
            }
            for at in range(0, len(text), 3)
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ]
    data = framed(events, eol="\n", named=True, comments=False)
    out, sink, _ = travel(AnthropicMessages(), [data])
    assert out.count(b"input_json_delta") == 1
    assert shown(sink) == []
    assert await message_of(anthropic_model(out)) == await message_of(anthropic_model(data))


def test_the_sdk_is_given_few_events_at_a_time():
    events = [openai_chunk({}, finish=None, choice={"index": number % 2}) for number in range(100)]
    way = ShortWay(OpenAIChat(), StreamTrace(RecordingSink()))
    portions = way.feed(framed(events, eol="\n", named=False, comments=False))
    assert len(portions) > 5
    assert max(portion.count(b"data:") for portion in portions) <= 16


def test_tags_around_reasoning_are_not_shown_and_what_is_between_them_is_reasoning():
    events = [openai_chunk({"content": text}) for text in ("<think>", "hmm", " so", "</think>", "Yes")]
    _, sink, _ = travel(OpenAIChat(), [framed(events, eol="\n", named=False, comments=False)])
    assert shown(sink) == [["reasoning", "hmm so"], ["text", "Yes"]]


def test_an_event_over_many_reads_costs_linear_time():
    huge = framed([openai_chunk({"content": "x" * 2_000_000})], eol="\n", named=False, comments=False)
    out, sink, _ = travel(OpenAIChat(), [huge[start : start + 1000] for start in range(0, len(huge), 1000)])
    assert out == huge
    assert len(sink.joined()) == 2_000_000


def test_a_value_equal_to_the_text_is_not_taken_for_it():
    texts = [("x", "fp"), ("fp", "fp"), ("fp", "other"), ("y", "fp")]
    events = [openai_chunk({"content": text}, system_fingerprint=mark) for text, mark in texts]
    _, sink, _ = travel(OpenAIChat(), [framed(events, eol="\n", named=False, comments=False)])
    assert sink.joined() == "xfpfpy"
