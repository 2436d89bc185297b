"""A sink that remembers, a clock that can be turned, and a server that sends any bytes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters

from pilothouse.llm.deltas import current_sink
from pilothouse.llm.gateway import ModelGateway
from pilothouse.llm.resilient import Retries
from pilothouse.settings import Settings
from pilothouse.testing.provider import ScriptedProvider

KEY = "sk-test-1234567890"


@dataclass
class RecordingSink:
    """Everything given, in order, as (kind, text)."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def text(self, text: str) -> None:
        self._note("text", text)

    def reasoning(self, text: str) -> None:
        self._note("reasoning", text)

    def restarted(self, reason: str) -> None:
        self._note("restarted", reason)

    def first_byte(self) -> None:
        self._note("first_byte", "")

    def _note(self, kind: str, text: str) -> None:
        self.calls.append((kind, text))
        self.changed.set()

    def joined(self, kind: str = "text") -> str:
        """The deltas that count: those after the last restart."""
        kinds = [name for name, _ in self.calls]
        start = len(kinds) - kinds[::-1].index("restarted") if "restarted" in kinds else 0
        return "".join(text for name, text in self.calls[start:] if name == kind)

    @property
    def restarts(self) -> list[str]:
        return [text for name, text in self.calls if name == "restarted"]


class TurnedClock:
    """A clock that sleepers turn."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def retries(self, attempts: int = 4, **kwargs) -> Retries:
        return Retries(attempts=attempts, sleep=self.sleep, clock=self.now, jitter=lambda: 1.0, **kwargs)


@contextmanager
def watched_by(sink: RecordingSink):
    token = current_sink.set(sink)
    try:
        yield sink
    finally:
        current_sink.reset(token)


@asynccontextmanager
async def gateway_for(
    provider: ScriptedProvider, *, clock: TurnedClock | None = None, attempts: int = 4, **models
) -> AsyncIterator[ModelGateway]:
    settings = Settings(
        openai={"api_key": KEY, "base_url": provider.openai_base_url},
        anthropic={"api_key": KEY, "base_url": provider.anthropic_base_url},
        azure={"api_key": KEY, "endpoint": provider.url},
        models=models,
    )
    gateway = ModelGateway(settings, {}, retries=(clock or TurnedClock()).retries(attempts))
    try:
        yield gateway
    finally:
        await gateway.close()


async def ask(model: Model, text: str = "Hello", settings=None) -> ModelResponse:
    messages: list[ModelMessage] = [ModelRequest(parts=[UserPromptPart(text)])]
    return await model.request(messages, settings, ModelRequestParameters())


@asynccontextmanager
async def byte_server(
    answers: Sequence[Sequence[bytes]], *, hold: bool = False, head: bytes = b""
) -> AsyncIterator["ByteServer"]:
    """A server that answers the n-th request with the n-th list of pieces, each its own write, then closes.

    With `hold` it keeps the connection open after the last piece instead.
    """
    server = ByteServer(answers, hold=hold, head=head or b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for writer in server.writers:
            writer.close()
        await listener.wait_closed()


class ByteServer:
    def __init__(self, answers: Sequence[Sequence[bytes]], *, hold: bool, head: bytes) -> None:
        self.answers = list(answers)
        self.hold = hold
        self.head = head
        self.port = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.gone = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self.head)
        for piece in self.answers[min(len(self.requests), len(self.answers)) - 1]:
            writer.write(piece)
            await writer.drain()
        if self.hold:
            await reader.read()
            self.gone.set()
        writer.close()
