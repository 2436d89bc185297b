"""Pydantic AI agents over both wires: what users of the provider do with it."""

import asyncio

import httpx2
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError, ModelRetry, TextPart, ThinkingPart, ToolCallPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from pilothouse.testing.provider import ErrorReply, Rule, Script, ToolCall, Turn, UsageReport, When

BROKEN_STREAM = (ModelAPIError, httpx2.TransportError, ValueError)


@pytest.fixture(params=["openai", "responses", "anthropic"])
def agent(request, openai, anthropic):
    if request.param == "openai":
        model = OpenAIChatModel("gpt-test", provider=OpenAIProvider(openai_client=openai))
    elif request.param == "responses":
        model = OpenAIResponsesModel("gpt-test", provider=OpenAIProvider(openai_client=openai))
    else:
        model = AnthropicModel("claude-test", provider=AnthropicProvider(anthropic_client=anthropic))
    return Agent(model, retries=2)


@pytest.fixture(params=["whole", "streamed"])
def run(request, agent):
    """Runs the agent to its end, each model request streamed or not."""

    async def handle(_context, events):
        async for _ in events:
            pass

    async def run(prompt, **options):
        handler = handle if request.param == "streamed" else None
        return await agent.run(prompt, event_stream_handler=handler, **options)

    run.streamed = request.param == "streamed"
    return run


async def test_text_reasoning_and_usage_arrive(provider, run):
    usage = UsageReport(input=100, output=20, cached=40)
    provider.script = Script(turns=[Turn(reasoning="Hm, hello.", text="Hello!", usage=usage)])
    result = await run("hi")
    assert result.output == "Hello!"
    parts = result.all_messages()[-1].parts
    assert [(type(part), part.content) for part in parts] == [(ThinkingPart, "Hm, hello."), (TextPart, "Hello!")]
    assert (result.usage.input_tokens, result.usage.cache_read_tokens, result.usage.output_tokens) == (100, 40, 20)
    assert provider.requests[0].stream is run.streamed


async def test_text_streams_token_by_token(provider, agent):
    provider.script = Script(turns=[Turn(tokens=30)])
    async with agent.run_stream("hi") as result:
        tokens = [token async for token in result.stream_text(delta=True, debounce_by=None)]
    assert len(tokens) == 30


async def test_parallel_tool_calls_are_run_and_answered(provider, agent, run):
    @agent.tool_plain
    async def price(item: str) -> str:
        return f"{item}: 5"

    calls = [ToolCall(name="price", arguments={"item": item}) for item in ("tea", "rum")]
    provider.script = Script(
        rules=[
            Rule(when=When(tool_results=0), turn=Turn(text="Let me see.", tool_calls=calls)),
            Rule(when=When(tool_results=2, after_tool="price"), turn=Turn(text="Last was {tool_result}")),
        ]
    )
    result = await run("prices of tea and rum?")
    assert result.output == "Last was rum: 5"
    made = [part for part in result.all_messages()[1].parts if isinstance(part, ToolCallPart)]
    assert [part.tool_call_id for part in made] == ["call_00000001_0", "call_00000001_1"]


async def test_a_stateless_script_serves_many_conversations_at_once(provider, agent, run):
    @agent.tool_plain
    async def order(number: str) -> str:
        return f"order {number} is on its way"

    find = Turn(tool_calls=[ToolCall(name="order", arguments={"number": "{number}"})])
    provider.script = Script(
        rules=[
            Rule(when=When(user_matches=r"order (?P<number>\d+)", tool_results=0), turn=find),
            Rule(when=When(after_tool="order"), turn=Turn(text="{tool_result}")),
        ]
    )
    results = await asyncio.gather(*(run(f"where is order {i}?") for i in range(25)))
    assert [result.output for result in results] == [f"order {i} is on its way" for i in range(25)]


async def test_malformed_tool_arguments_come_back_to_the_model(provider, agent, run):
    @agent.tool_plain
    async def price(item: str) -> str:
        return f"{item}: 5"

    provider.script = Script(
        turns=[
            Turn(tool_calls=[ToolCall(name="price", raw_arguments='{"item": "te')]),
            Turn(tool_calls=[ToolCall(name="price", arguments={"item": "tea"})]),
            Turn(text="done"),
        ]
    )
    assert (await run("price?")).output == "done"
    assert len(provider.requests) == 3


async def test_a_tool_that_asks_for_a_retry_counts_as_a_result(provider, agent, run):
    @agent.tool_plain
    async def price(item: str) -> str:
        raise ModelRetry("no such thing")

    provider.script = Script(
        rules=[
            Rule(when=When(tool_results=0), turn=Turn(tool_calls=[ToolCall(name="price", arguments={"item": "x"})])),
            Rule(when=When(tool_results=1), turn=Turn(text="sorry: {tool_result}")),
        ]
    )
    output = (await run("price?")).output
    assert output.startswith("sorry: ")
    assert "no such thing" in output


async def test_structured_output_is_a_tool_call(provider, run):
    class City(BaseModel):
        name: str

    call = ToolCall(name="final_result", arguments={"name": "Bern"})
    provider.script = Script(rules=[Rule(when=When(offers_tool="final_result"), turn=Turn(tool_calls=[call]))])
    assert (await run("capital?", output_type=City)).output == City(name="Bern")


@pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
async def test_an_error_status_reaches_the_agent(provider, run, status):
    provider.script = Script(turns=[Turn(error=ErrorReply(status=status, retry_after=3))])
    with pytest.raises(ModelHTTPError) as raised:
        await run("hi")
    assert raised.value.status_code == status


@pytest.mark.parametrize("trouble", [{"cut_after_tokens": 3}, {"malformed_chunk": True}])
async def test_a_broken_stream_is_an_error_not_an_answer(provider, run, trouble):
    provider.script = Script(turns=[Turn(tokens=9, **trouble)])
    with pytest.raises(BROKEN_STREAM):
        await run("hi")


async def test_cancelling_a_run_closes_the_socket_of_the_model(provider, run):
    provider.script = Script(turns=[Turn(tokens=9, hang_after_tokens=3)])
    running = asyncio.create_task(run("hi"))
    await provider.wait_for_requests(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await provider.wait_for_finished(1)
    assert provider.requests[0].outcome == "client_disconnected"
