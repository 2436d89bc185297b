"""Answers as bytes, for the wires of OpenAI and Anthropic; and servers that send them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic_ai.messages import ModelResponse
from tests.llm.helpers import RecordingSink, TurnedClock, ask, byte_server, gateway_for

from pilothouse.errors import RunFailure
from pilothouse.llm.deltas import current_sink
from pilothouse.testing.provider import ScriptedProvider

Document = dict[str, Any]
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


def sse(*events: object, done: bool = False) -> bytes:
    """Events with the names they need; `done` adds OpenAI's last line."""
    out = b""
    for event in events:
        if isinstance(event, dict) and "type" in event:
            out += f"event: {event['type']}\n".encode()
        out += b"data: " + json.dumps(event).encode() + b"\n\n"
    return out + (b"data: [DONE]\n\n" if done else b"")


def chunk(choices: object, **rest: Any) -> Document:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **rest}


def delta(delta: object, finish: str | None = None) -> Document:
    return chunk([{"index": 0, "delta": delta, "finish_reason": finish}])


def completion(choices: object, **rest: Any) -> Document:
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **rest}


def message(message: object, finish: str = "stop") -> Document:
    return completion([{"index": 0, "message": message, "finish_reason": finish}])


def anthropic(content: object, stop: str | None = "end_turn") -> Document:
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }


def anthropic_stream(*events: Document, stop: str | None = "end_turn") -> bytes:
    ending = {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}}
    return sse(
        {"type": "message_start", "message": anthropic([], None)},
        *events,
        {**ending, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )


def block(start: Document, *deltas: Document) -> list[Document]:
    return [
        {"type": "content_block_start", "index": 0, "content_block": start},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
    ]


def response(output: object, status: str = "completed", **rest: Any) -> Document:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    base = {"id": "r", "object": "response", "created_at": 1, "model": "m", "parallel_tool_calls": True}
    more = {"tool_choice": "auto", "tools": [], "usage": {**usage, **details}}
    return {**base, **more, "output": output, "status": status, **rest}


def output_text(text: object) -> Document:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "x", "role": "assistant", "status": "completed", "content": content}


def response_stream(*events: Document, last: str = "response.completed", **rest: Any) -> bytes:
    created = {"type": "response.created", "response": response([], "in_progress")}
    ending = {"type": last, "response": response(rest.pop("output", []), **rest)}
    numbered = enumerate([created, *events, ending])
    return sse(*({**event, "sequence_number": number} for number, event in numbered))


@contextmanager
def shown_to(sink: RecordingSink | None) -> Iterator[None]:
    token = current_sink.set(sink)
    try:
        yield
    finally:
        current_sink.reset(token)


def head(content_type: str, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def answered(
    name: str, *bodies: bytes, streamed: bool, content_type: str | None = None
) -> tuple[ModelResponse | RunFailure, int]:
    """What a model makes of answers that are these bytes, one a request, and how often it was asked."""
    kind = content_type or ("text/event-stream" if streamed else "application/json")
    async with byte_server([[body] for body in bodies], head=head(kind)) as server:
        provider = ScriptedProvider()
        provider._port = server.port
        async with gateway_for(provider, attempts=2) as gateway:
            with shown_to(RecordingSink() if streamed else None):
                try:
                    return await ask(gateway.model(name)), len(server.requests)
                except RunFailure as error:
                    return error, len(server.requests)


class EndlessServer:
    """Sends `first` and then `piece` again and again, until the client closes the connection."""

    def __init__(self, head: bytes, first: bytes, piece: bytes) -> None:
        self._head, self._first, self._piece = head, first, piece
        self.port = self.requests = self.sent = 0
        self.left = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        try:
            writer.write(self._head + self._first)
            while True:
                writer.write(self._piece)
                self.sent += len(self._piece)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def endless_server(head: bytes, piece: bytes, *, first: bytes = b"") -> AsyncIterator[EndlessServer]:
    server = EndlessServer(head, first, piece)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


@asynccontextmanager
async def asking(server: EndlessServer, name: str, **models: Any) -> AsyncIterator[Any]:
    """The model of a name, whose provider is this server."""
    provider = ScriptedProvider()
    provider._port = server.port
    async with gateway_for(provider, clock=TurnedClock(), attempts=2, **models) as gateway:
        yield gateway.model(name)
