"""(b) FastAPI with the OpenAI SDK and a loop around its tool calls. Keeps nothing."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from benchmarks.workload import INSTRUCTIONS, MODEL, ORDER_LOOKUP_SCHEMA, order_lookup

_MOST_REQUESTS = 20


class Chat(BaseModel):
    """What is asked."""

    message: str
    agent: str = "plain"


class Answer(BaseModel):
    """What is answered."""

    text: str
    input_tokens: int
    output_tokens: int


def make(provider: str) -> FastAPI:
    """The app."""
    client = AsyncOpenAI(base_url=f"{provider}/v1", api_key="bench")
    create: Any = client.chat.completions.create
    app = FastAPI()

    @app.post("/chat")
    async def chat(body: Chat) -> Answer:
        messages = _messages(body.message)
        options: dict[str, Any] = {"tools": [ORDER_LOOKUP_SCHEMA]} if body.agent == "shop" else {}
        spent = [0, 0]
        for _ in range(_MOST_REQUESTS):
            response: ChatCompletion = await create(model=MODEL, messages=messages, **options)
            message = response.choices[0].message
            if response.usage is not None:
                spent[0] += response.usage.prompt_tokens
                spent[1] += response.usage.completion_tokens
            if not message.tool_calls:
                return Answer(text=message.content or "", input_tokens=spent[0], output_tokens=spent[1])
            messages.append(message.model_dump(exclude_none=True))
            for call in message.tool_calls:
                assert isinstance(call, ChatCompletionMessageFunctionToolCall)
                result = await order_lookup(**json.loads(call.function.arguments))
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        raise RuntimeError("too many requests")

    @app.post("/chat/stream")
    async def stream(body: Chat) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            chunks = await client.chat.completions.create(
                model=MODEL,
                messages=_messages(body.message),
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in chunks:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield f"data: {json.dumps({'text': text})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


def _messages(message: str) -> list[Any]:
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": message}]
