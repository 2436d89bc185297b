"""(c) FastAPI with Pydantic AI, by its documentation. Keeps nothing.

Three ways to stream are in its documentation; `style` picks one, each sends one event a delta.
"""

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, AgentStreamEvent, PartDeltaEvent, PartStartEvent, RunContext, TextPart, TextPartDelta
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.workload import INSTRUCTIONS, MODEL, order_lookup

Style = Literal["handler", "events", "text"]


class Chat(BaseModel):
    """What is asked."""

    message: str
    agent: str = "plain"


class Answer(BaseModel):
    """What is answered."""

    text: str
    input_tokens: int
    output_tokens: int


def make(provider: str, style: Style = "handler") -> FastAPI:
    """The app."""
    client = AsyncOpenAI(base_url=f"{provider}/v1", api_key="bench")
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=client))
    agents = {
        "plain": Agent(model, name="plain", instructions=INSTRUCTIONS),
        "shop": Agent(model, name="shop", instructions=INSTRUCTIONS, tools=[order_lookup]),
    }
    texts = {"handler": _by_handler, "events": _by_events, "text": _by_text}[style]
    app = FastAPI()

    @app.post("/chat")
    async def chat(body: Chat) -> Answer:
        result = await agents[body.agent].run(body.message)
        usage = result.usage
        return Answer(text=result.output, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)

    @app.post("/chat/stream")
    async def stream(body: Chat) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            async for text in texts(agents[body.agent], body.message):
                yield f"data: {json.dumps({'text': text})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _text(event: object) -> str | None:
    match event:
        case PartStartEvent(part=TextPart(content=text)):
            return text
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return text
        case _:
            return None


async def _by_handler(agent: Agent[None, str], message: str) -> AsyncIterator[str]:
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def handle(_context: RunContext[None], events: AsyncIterable[AgentStreamEvent]) -> None:
        async for event in events:
            if text := _text(event):
                queue.put_nowait(text)

    async def run() -> Any:
        try:
            return await agent.run(message, event_stream_handler=handle)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (text := await queue.get()) is not None:
            yield text
        await task
    finally:
        task.cancel()


async def _by_events(agent: Agent[None, str], message: str) -> AsyncIterator[str]:
    async with agent.run_stream_events(message) as events:
        async for event in events:
            if text := _text(event):
                yield text


async def _by_text(agent: Agent[None, str], message: str) -> AsyncIterator[str]:
    async with agent.run_stream(message) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            yield text
