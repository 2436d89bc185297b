"""Calls through the gateway, over real sockets and through the real SDKs."""

import asyncio
import json

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from tests.llm.helpers import KEY, RecordingSink, TurnedClock, ask, byte_server, gateway_for, watched_by

from pilothouse.errors import RunFailure, StartupError
from pilothouse.llm.deltas import current_sink
from pilothouse.llm.gateway import ModelGateway
from pilothouse.settings import Settings
from pilothouse.testing.provider import FAKE_SECRET, ErrorReply, Script, ScriptedProvider, ToolCall, Turn

MODELS = ["openai:m", "openai-responses:m", "anthropic:m", "azure:m", "azure-responses:m"]
SIX_WORDS = "w000 w001 w002 w003 w004 w005"


def scripted(*turns: Turn) -> ScriptedProvider:
    return ScriptedProvider(Script(turns=turns))


async def failure_of(model: Model) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        await ask(model)
    return caught.value


@pytest.mark.parametrize("name", MODELS)
async def test_a_watched_call_streams_and_returns_the_same_text(name):
    turn = Turn(text="Grüße, 世界! " * 20, reasoning="Let me think. " * 5)
    async with scripted(turn) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(name))
        assert response.text == sink.joined() == turn.text
        assert response.thinking == sink.joined("reasoning") == turn.reasoning
        assert sink.calls[0] == ("first_byte", "")
        assert [kind for kind, _ in sink.calls].count("first_byte") == 1
        assert response.usage.output_tokens > 0
        assert response.finish_reason == "stop"
        assert provider.requests[0].stream


@pytest.mark.parametrize("name", MODELS)
async def test_a_call_nobody_watches_is_not_streamed(name):
    async with scripted(Turn(text="Hello")) as provider, gateway_for(provider) as gateway:
        assert (await ask(gateway.model(name))).text == "Hello"
        assert not provider.requests[0].stream


@pytest.mark.parametrize("name", MODELS)
async def test_tool_calls_arrive_whole_beside_the_text(name):
    turn = Turn(
        text="Looking it up.", tool_calls=[ToolCall(name="find", arguments={"q": "é" * 30}), ToolCall(name="b")]
    )
    async with scripted(turn) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(name))
    calls = [part for part in response.parts if isinstance(part, ToolCallPart)]
    assert [(call.tool_name, call.args_as_dict()) for call in calls] == [("find", {"q": "é" * 30}), ("b", {})]
    assert sink.joined() == "Looking it up."


async def test_text_is_shown_while_the_model_still_writes():
    turn = Turn(tokens=6, gate="half", gate_after_tokens=3)
    async with scripted(turn) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            call = asyncio.create_task(ask(gateway.model("openai:m")))
        await provider.wait_for_gate("half")
        while sink.joined() != "w000 w001 w002":
            sink.changed.clear()
            await asyncio.wait_for(sink.changed.wait(), 5)
        assert not call.done()
        provider.release("half")
        assert (await call).text == sink.joined() == SIX_WORDS


async def test_the_agent_loop_runs_on_the_gateways_model():
    turns = (Turn(tool_calls=[ToolCall(name="double", arguments={"x": 21})]), Turn(text="It is {tool_result}."))
    async with scripted(*turns) as provider, gateway_for(provider) as gateway:
        agent = Agent(gateway.model("openai:m", fallback=["anthropic:m"]))

        @agent.tool_plain
        def double(x: int) -> int:
            return 2 * x

        with watched_by(RecordingSink()) as sink:
            result = await agent.run("Double 21")
    assert result.output == sink.joined() == "It is 42."


ERRORS = [
    (ErrorReply(status=408), "provider_timeout", "transient"),
    (ErrorReply(status=409), "provider_unavailable", "transient"),
    (ErrorReply(status=429), "provider_rate_limited", "transient"),
    (ErrorReply(status=500), "provider_unavailable", "transient"),
    (ErrorReply(status=502), "provider_unavailable", "transient"),
    (ErrorReply(status=503), "provider_unavailable", "transient"),
    (ErrorReply(status=504), "provider_unavailable", "transient"),
    (ErrorReply(status=529), "provider_unavailable", "transient"),
    (ErrorReply(status=400), "provider_bad_request", "model"),
    (ErrorReply(status=422), "provider_bad_request", "model"),
    (ErrorReply(status=413), "context_too_long", "model"),
    (ErrorReply(status=404), "model_not_found", "model"),
    (ErrorReply(status=401), "provider_auth", "fatal"),
    (ErrorReply(status=403), "provider_auth", "fatal"),
    (ErrorReply(status=402), "provider_quota", "fatal"),
]


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", ["openai:m", "anthropic:m"])
@pytest.mark.parametrize(("error", "code", "category"), ERRORS, ids=lambda value: getattr(value, "status", None))
async def test_each_error_has_its_code_and_is_tried_again_only_if_transient(name, error, code, category, watched):
    sink = RecordingSink() if watched else None
    async with scripted(Turn(error=error)) as provider, gateway_for(provider, attempts=2) as gateway:
        token = current_sink.set(sink)
        failure = await failure_of(gateway.model(name))
        current_sink.reset(token)
        assert (failure.code, failure.category) == (code, category)
        assert failure.retryable == (category == "transient")
        assert len(provider.requests) == (2 if category == "transient" else 1)
        assert FAKE_SECRET not in str(failure)
        assert FAKE_SECRET not in str(failure.extra)
        assert KEY not in str(failure)
        assert failure.__cause__ is not None


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("openai:m", ErrorReply(status=429, code="insufficient_quota"), "provider_quota"),
        ("openai:m", ErrorReply(status=400, code="context_length_exceeded"), "context_too_long"),
        ("openai:m", ErrorReply(status=400, code="content_filter"), "content_filtered"),
        ("openai:m", ErrorReply(status=400, code="content_policy_violation"), "content_filtered"),
        ("openai:m", ErrorReply(status=404, code="model_not_found"), "model_not_found"),
        ("azure:m", ErrorReply(status=400, code="content_filter"), "content_filtered"),
        ("anthropic:m", ErrorReply(status=400, message="prompt is too long: 9 tokens > 8 maximum"), "context_too_long"),
        ("anthropic:m", ErrorReply(status=400, type="billing_error"), "provider_quota"),
    ],
)
async def test_what_the_provider_says_of_an_error_counts_more_than_its_status(name, error, code):
    async with scripted(Turn(error=error)) as provider, gateway_for(provider) as gateway:
        failure = await failure_of(gateway.model(name))
        assert failure.code == code
        assert len(provider.requests) == 1


@pytest.mark.parametrize("name", ["openai:m", "anthropic:m"])
@pytest.mark.parametrize(
    ("turn", "code"),
    [
        (Turn(tokens=6, cut_after_tokens=3), "provider_stream_cut"),
        (Turn(tokens=6, error=ErrorReply(status=529, type="overloaded_error", after_tokens=3)), "provider_unavailable"),
        (
            Turn(tokens=6, error=ErrorReply(status=429, type="rate_limit_error", after_tokens=3)),
            "provider_rate_limited",
        ),
        (Turn(tokens=6, error=ErrorReply(status=500, after_tokens=3)), "provider_unavailable"),
    ],
    ids=["cut", "overloaded", "rate limited", "server error"],
)
async def test_a_stream_that_breaks_begins_again_and_its_text_is_not_doubled(name, turn, code):
    async with scripted(turn, Turn(tokens=6)) as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(name))
        assert sink.restarts == [code]
        assert "".join(text for kind, text in sink.calls[:3] if kind == "text") == "w000 w001 w002"
        assert response.text == sink.joined() == SIX_WORDS
        assert len(provider.requests) == 2


def events(*values: dict) -> bytes:
    names = ((f"event: {value['type']}\n" if "type" in value else "") for value in values)
    return "".join(f"{name}data: {json.dumps(value)}\n\n" for name, value in zip(names, values, strict=True)).encode()


def openai_text(finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": finish}
    return events({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
ANTHROPIC_TEXT = events(
    {"type": "message_start", "message": {**MESSAGE, "usage": {"input_tokens": 1, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
)


@pytest.mark.parametrize(("name", "data"), [("openai:m", openai_text()), ("anthropic:m", ANTHROPIC_TEXT)])
async def test_a_stream_that_ends_cleanly_before_the_answer_does_was_cut(name, data):
    async with byte_server([[data]]) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, attempts=2) as gateway:
            with watched_by(RecordingSink()) as sink:
                failure = await failure_of(gateway.model(name))
    assert failure.code == "provider_stream_cut"
    assert len(server.requests) == 2
    assert sink.restarts == ["provider_stream_cut"]


@pytest.mark.parametrize("ending", [b"data: [DONE]\n\n", b"data: [DONE]", openai_text("stop")])
async def test_an_openai_stream_is_whole_with_either_a_finish_reason_or_the_last_line(ending):
    async with byte_server([[openai_text(), ending]]) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, attempts=1) as gateway:
            with watched_by(RecordingSink()) as sink:
                response = await ask(gateway.model("openai:m"))
    assert response.text == sink.joined()


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", ["openai:m", "anthropic:m"])
async def test_a_malformed_answer_is_said_to_be_one_without_its_text(name, watched):
    async with scripted(Turn(tokens=6, malformed_chunk=True)) as provider, gateway_for(provider) as gateway:
        token = current_sink.set(RecordingSink() if watched else None)
        failure = await failure_of(gateway.model(name))
        current_sink.reset(token)
    assert failure.code == "provider_bad_response"
    assert FAKE_SECRET not in str(failure)


async def test_waits_double_up_to_the_longest_and_keep_to_what_the_provider_asks():
    clock = TurnedClock()
    turns = [Turn(error=503)] * 3 + [Turn(error=ErrorReply(status=429, retry_after=7))] + [Turn(text="Done")]
    async with scripted(*turns) as provider, gateway_for(provider, clock=clock, attempts=5) as gateway:
        assert (await ask(gateway.model("openai:m"))).text == "Done"
    assert clock.slept == [0.5, 1.0, 2.0, 7.0]


@pytest.mark.parametrize(
    "header", ["retry-after-ms: 7000", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After: soon"]
)
async def test_retry_after_is_understood_in_all_its_forms(header):
    clock = TurnedClock()
    head = f"HTTP/1.1 429 Slow\r\n{header}\r\nContent-Length: 2\r\n\r\n".encode()
    async with byte_server([[b"{}"]], head=head) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, clock=clock, attempts=2) as gateway:
            await failure_of(gateway.model("openai:m"))
    assert clock.slept == [7.0 if "ms" in header else 0.5]


async def test_a_wait_past_the_calls_deadline_is_not_begun():
    clock = TurnedClock()
    turn = Turn(error=ErrorReply(status=429, retry_after=60))
    async with scripted(turn) as provider, gateway_for(provider, clock=clock) as gateway:
        failure = await failure_of(gateway.model("openai:m", timeout_seconds=30))
    assert failure.code == "provider_rate_limited"
    assert failure.extra["retry_after"] == 60
    assert clock.slept == []


async def test_a_try_that_takes_too_long_is_a_timeout_and_closes_its_connection():
    turns = (Turn(text="Ready"), Turn(tokens=6, hang_after_tokens=3))
    async with scripted(*turns) as provider, gateway_for(provider, attempts=1) as gateway:
        model = gateway.model("openai:m", timeout_seconds=1)
        with watched_by(RecordingSink()):
            await ask(model)  # the SDK's first call is slow
            failure = await failure_of(model)
        assert failure.code == "provider_timeout"
        await provider.wait_for_finished(2)
        assert provider.requests[1].outcome == "client_disconnected"


@pytest.mark.parametrize("turn", [Turn(hang=True), Turn(tokens=6, hang_after_tokens=3)], ids=["at first", "midway"])
@pytest.mark.parametrize("name", ["openai:m", "anthropic:m"])
async def test_a_silent_provider_is_a_timeout(name, turn):
    limits = {"first_byte_seconds": 0.2, "stall_seconds": 0.2}
    async with scripted(turn) as provider, gateway_for(provider, attempts=1, **limits) as gateway:
        with watched_by(RecordingSink()):
            failure = await failure_of(gateway.model(name))
        assert failure.code == "provider_timeout"
        await provider.wait_for_finished(1)
        assert provider.requests[0].outcome == "client_disconnected"


async def test_a_provider_that_is_away_is_unavailable():
    provider = ScriptedProvider()
    await provider.start()
    await provider.stop()
    async with gateway_for(provider, attempts=1) as gateway:
        assert (await failure_of(gateway.model("openai:m"))).code == "provider_unavailable"


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", MODELS)
async def test_cancelling_closes_the_providers_socket_at_once(name, watched):
    turn = Turn(tokens=6, gate="half", gate_after_tokens=3)
    async with scripted(turn) as provider, gateway_for(provider) as gateway:
        token = current_sink.set(RecordingSink() if watched else None)
        call = asyncio.create_task(ask(gateway.model(name)))
        current_sink.reset(token)
        await provider.wait_for_gate("half")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await provider.wait_for_finished(1)
        assert provider.requests[0].outcome == "client_disconnected"


async def test_the_next_model_answers_when_the_first_is_away_and_signs_with_its_own_name():
    turn = Turn(tokens=6, cut_after_tokens=3)
    async with scripted(turn, turn, Turn(text="Here.")) as provider, gateway_for(provider, attempts=2) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model("openai:first", fallback=["anthropic:second"]))
    assert response.text == sink.joined() == "Here."
    assert (response.model_name, response.provider_name) == ("second", "anthropic")
    assert sink.restarts == ["provider_stream_cut", "provider_stream_cut"]


@pytest.mark.parametrize(("status", "answers"), [(404, True), (400, False), (401, False), (503, True)])
async def test_other_models_are_asked_only_where_the_first_is_away_or_unknown(status, answers):
    turns = (Turn(error=status), Turn(text="Here."))
    async with scripted(*turns) as provider, gateway_for(provider, attempts=1) as gateway:
        model = gateway.model("openai:first", fallback=["openai:second"])
        if answers:
            assert (await ask(model)).text == "Here."
        else:
            await failure_of(model)


async def test_a_model_of_the_users_own_client_takes_the_ordinary_road():
    async with scripted(Turn(text="Hello there", reasoning="Hm")) as provider, gateway_for(provider) as gateway:
        client = AsyncOpenAI(api_key="k", base_url=provider.openai_base_url, http_client=httpx2.AsyncClient())
        own = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(own))
        await client.close()
    assert response.text == sink.joined() == "Hello there"
    assert response.thinking == sink.joined("reasoning") == "Hm"


async def test_a_model_that_cannot_stream_is_shown_whole():
    def answer(messages, info):
        return ModelResponse(parts=[ThinkingPart("Hm"), TextPart("Whole")])

    async with scripted() as provider, gateway_for(provider) as gateway:
        with watched_by(RecordingSink()) as sink:
            response = await ask(gateway.model(FunctionModel(answer)))
    assert response.text == "Whole"
    assert sink.calls == [("first_byte", ""), ("reasoning", "Hm"), ("text", "Whole")]


async def test_a_bug_in_a_users_model_is_not_blamed_on_the_provider():
    def answer(messages, info):
        raise ValueError("a bug")

    async with scripted() as provider, gateway_for(provider) as gateway:
        with pytest.raises(ValueError, match="a bug"):
            await ask(gateway.model(FunctionModel(answer)))


async def test_an_answer_the_filter_left_nothing_of_is_filtered():
    async with scripted(Turn(text="", finish_reason="content_filter")) as provider, gateway_for(provider) as gateway:
        assert (await failure_of(gateway.model("openai:m"))).code == "content_filtered"


async def test_models_and_clients_are_made_once():
    async with scripted(Turn(text="Hi")) as provider, gateway_for(provider) as gateway:
        first = gateway.model("openai:m", fallback=["anthropic:m"])
        assert gateway.model("openai:m", fallback=("anthropic:m",)) is first
        assert gateway.model("openai:m") is not first
        assert gateway.model("openai:a").client is gateway.model("openai:b").client  # type: ignore[attr-defined]
        assert gateway.model(first) is first


async def test_connections_are_kept_for_the_next_call():
    async with scripted(Turn(tokens=30)) as provider, gateway_for(provider) as gateway:
        transport = gateway._http_client._transport
        for _ in range(3):
            with watched_by(RecordingSink()):
                await ask(gateway.model("openai:m"))
                await ask(gateway.model("anthropic:m"))
        connections = transport._session.connector._conns  # type: ignore[union-attr]
        assert sum(len(kept) for kept in connections.values()) == 1


async def test_window_sizes_come_from_the_price_data_or_a_usual_one():
    async with scripted() as provider, gateway_for(provider) as gateway:
        assert gateway.window_tokens("anthropic:claude-sonnet-4-5") >= 200_000
        assert gateway.window_tokens("openai:some-local-model") == 128_000


class TestCheck:
    """The check of credentials at start."""

    @pytest.mark.parametrize("name", MODELS)
    async def test_a_provider_that_takes_the_key_passes(self, name):
        async with scripted() as provider, gateway_for(provider) as gateway:
            await gateway.check([name, "test", FunctionModel(lambda *_: ModelResponse(parts=[]))])

    @pytest.mark.parametrize("name", ["openai", "anthropic", "azure"])
    async def test_a_missing_key_names_the_variable(self, name):
        settings = Settings(azure={"endpoint": "http://127.0.0.1:9"})
        gateway = ModelGateway(settings, {})
        with pytest.raises(StartupError, match=f"PILOTHOUSE_{name.upper()}_API_KEY.*PILOTHOUSE_MODELS_CHECK=false"):
            await gateway.check([f"{name}:m"])
        with pytest.raises(StartupError, match=f"PILOTHOUSE_{name.upper()}_API_KEY"):
            gateway.model(f"{name}:m")
        await gateway.close()

    async def test_a_compatible_endpoint_needs_no_key(self):
        async with scripted(Turn(text="Hi")) as provider:
            gateway = ModelGateway(Settings(openai={"base_url": provider.openai_base_url}), {})
            await gateway.check(["openai:llama"])
            assert (await ask(gateway.model("openai:llama"))).text == "Hi"
            await gateway.close()

    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_refused_key_names_the_variable_and_not_the_key(self, status):
        head = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
        async with byte_server([[]], head=head) as server:
            gateway = ModelGateway(Settings(openai={"api_key": KEY, "base_url": server.url}), {})
            with pytest.raises(StartupError, match="PILOTHOUSE_OPENAI_API_KEY") as caught:
                await gateway.check(["openai:m"])
            assert KEY not in str(caught.value)
            assert f"Bearer {KEY}".encode() in server.requests[0]
            await gateway.close()

    async def test_an_unreachable_provider_names_the_address(self):
        gateway = ModelGateway(Settings(openai={"base_url": "http://user:pass@127.0.0.1:9/v1"}), {})
        with pytest.raises(StartupError, match="PILOTHOUSE_OPENAI_BASE_URL") as caught:
            await gateway.check(["openai:m"])
        assert "pass@" not in str(caught.value)
        await gateway.close()

    async def test_the_providers_own_variables_are_read(self):
        async with scripted(Turn(text="Hi")) as provider:
            environ = {"OPENAI_API_KEY": "sk-plain-7777", "OPENAI_BASE_URL": provider.openai_base_url}
            gateway = ModelGateway(Settings(), environ)
            await ask(gateway.model("openai:m"))
            assert provider.requests[0].headers["authorization"].endswith("7777")
            await gateway.close()
