import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers
from pilothouse.http.sse import EventStreamResponse, encode_event
from pilothouse.settings import load_settings

LONG = 60.0


def make_app(source, *, heartbeat: float = LONG, on_disconnect=None) -> FastAPI:
    app = FastAPI()
    install_problem_handlers(app)
    add_middleware(app, load_settings(None))

    @app.get("/v1/stream")
    async def stream() -> EventStreamResponse:
        return EventStreamResponse(source(), heartbeat_seconds=heartbeat, on_disconnect=on_disconnect)

    return app


async def ask(connect, server, **options):
    reader, writer = await connect(server.port, **options)
    writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: test\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return reader, writer, head.decode().lower()


async def chunk(reader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


async def within(awaitable, seconds: float = 5):
    async with asyncio.timeout(seconds):
        return await awaitable


def test_an_event_is_written_as_the_format_says():
    assert (
        encode_event("1-57", "text.delta", '{"a":"é"}') == 'id: 1-57\nevent: text.delta\ndata: {"a":"é"}\n\n'.encode()
    )
    assert encode_event("1-1", "t", b"{}") == b"id: 1-1\nevent: t\ndata: {}\n\n"


def test_line_breaks_in_data_stay_inside_the_event():
    assert encode_event("1", "t", "a\nb\r\nc") == b"id: 1\nevent: t\ndata: a\ndata: b\ndata: c\n\n"


async def test_the_stream_carries_headers_a_first_comment_the_items_and_an_end(serve, connect):
    async def source():
        yield encode_event("1-1", "a", "{}")
        yield encode_event("1-2", "b", "{}")

    server = await serve(make_app(source))
    reader, _, head = await ask(connect, server)
    assert "content-type: text/event-stream; charset=utf-8" in head
    assert "cache-control: no-store" in head
    assert head.count("cache-control") == 1
    assert "x-accel-buffering: no" in head
    assert "x-request-id: req_" in head
    assert await chunk(reader) == b": ok\n\n"
    assert await chunk(reader) == b"id: 1-1\nevent: a\ndata: {}\n\n"
    assert await chunk(reader) == b"id: 1-2\nevent: b\ndata: {}\n\n"
    assert await chunk(reader) == b""


async def test_headers_and_first_comment_come_before_the_first_item(serve, connect):
    gate = asyncio.Event()

    async def source():
        await gate.wait()
        yield b"data: 1\n\n"

    server = await serve(make_app(source))
    reader, _, _ = await ask(connect, server)
    assert await within(chunk(reader)) == b": ok\n\n"
    gate.set()
    assert await within(chunk(reader)) == b"data: 1\n\n"


async def test_silence_is_filled_with_heartbeats_and_items_follow(serve, connect):
    gate = asyncio.Event()

    async def source():
        await gate.wait()
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    server = await serve(make_app(source, heartbeat=0.05))
    reader, _, _ = await ask(connect, server)
    await chunk(reader)
    for _ in range(3):
        assert await within(chunk(reader)) == b": hb\n\n"
    gate.set()
    rest = []
    while item := await within(chunk(reader)):
        rest.append(item)
    assert [item for item in rest if item != b": hb\n\n"] == [b"data: 1\n\n", b"data: 2\n\n"]


async def test_no_heartbeat_while_items_flow(serve, connect):
    loop = asyncio.get_running_loop()

    async def source():
        for number in range(30):
            woken = loop.create_future()
            loop.call_later(0.01, woken.set_result, None)
            await woken
            yield b"data: %d\n\n" % number

    server = await serve(make_app(source, heartbeat=0.2))
    reader, _, _ = await ask(connect, server)
    got = [await chunk(reader) for _ in range(31)]
    assert b": hb\n\n" not in got


async def test_a_client_that_leaves_closes_the_source_and_is_told_of(serve, connect):
    closed, told = asyncio.Event(), asyncio.Event()

    async def source():
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up may await
            closed.set()

    async def on_disconnect():
        assert closed.is_set()
        told.set()

    server = await serve(make_app(source, on_disconnect=on_disconnect))
    reader, writer, _ = await ask(connect, server)
    await chunk(reader)
    await chunk(reader)
    assert not closed.is_set()
    writer.close()
    await within(told.wait())


async def test_a_plain_function_may_be_told_and_its_error_harms_nobody(serve, connect):
    told = asyncio.Event()

    async def source():
        await asyncio.Event().wait()
        yield b""

    def on_disconnect():
        told.set()
        raise RuntimeError("the callback's own trouble")

    server = await serve(make_app(source, on_disconnect=on_disconnect))
    reader, writer, _ = await ask(connect, server)
    await chunk(reader)
    writer.close()
    await within(told.wait())
    again, _, _ = await ask(connect, server)
    assert await within(chunk(again)) == b": ok\n\n"


async def test_a_stream_that_ends_by_itself_is_no_disconnect(serve, connect):
    calls = []

    async def source():
        yield b"data: 1\n\n"

    server = await serve(make_app(source, on_disconnect=lambda: calls.append(1)))
    reader, writer, _ = await ask(connect, server)
    while await chunk(reader):
        pass
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    assert b"404" in await within(reader.read())  # the connection was still good, and has now been ended
    assert calls == []


async def test_a_slow_client_slows_the_source_and_costs_no_memory(serve, connect):
    made = 0
    stalled, closed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    watchdog = None

    async def source():
        nonlocal made, watchdog
        try:
            while made < 4000:
                made += 1
                if watchdog is not None:
                    watchdog.cancel()
                watchdog = loop.call_later(0.3, stalled.set)
                yield b"data: " + b"x" * 65536 + b"\n\n"
        finally:
            closed.set()

    server = await serve(make_app(source, heartbeat=0.05))
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    raw.setblocking(False)
    await loop.sock_connect(raw, ("127.0.0.1", server.port))
    await loop.sock_sendall(raw, b"GET /v1/stream HTTP/1.1\r\nHost: test\r\n\r\n")
    await within(stalled.wait(), 20)
    assert made < 400, "the source ran ahead of the client"
    before = made
    taken = 0
    while made == before:
        taken += len(await within(loop.sock_recv(raw, 65536)))
    assert taken > 0
    raw.close()
    await within(closed.wait())


async def test_an_error_of_the_source_cuts_the_connection(serve, connect):
    async def source():
        yield b"data: 1\n\n"
        raise ValueError("lost")

    server = await serve(make_app(source))
    reader, _, _ = await ask(connect, server)
    await chunk(reader)
    await chunk(reader)
    assert await within(reader.read()) == b"", "a clean end would have been b'0\\r\\n\\r\\n'"


async def test_a_source_s_own_timeout_is_an_error_and_no_disconnect(serve, connect):
    calls = []

    async def source():
        yield b"data: 1\n\n"
        raise TimeoutError

    server = await serve(make_app(source, on_disconnect=lambda: calls.append(1)))
    reader, _, _ = await ask(connect, server)
    await chunk(reader)
    await chunk(reader)
    assert await within(reader.read()) == b""
    assert calls == []


async def test_a_source_that_is_no_generator_is_closed_too(serve, connect):
    class Source:
        def __init__(self):
            self.closed = asyncio.Event()

        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.Event().wait()

        async def aclose(self):
            self.closed.set()

    one = Source()
    server = await serve(make_app(lambda: one))
    reader, writer, _ = await ask(connect, server)
    await chunk(reader)
    writer.close()
    await within(one.closed.wait())


async def test_a_stream_makes_no_task_for_a_chunk():
    made = []
    loop = asyncio.get_running_loop()

    async def source():
        for _ in range(100):
            yield b"data: 1\n\n"

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        await asyncio.sleep(0)

    def factory(loop, coroutine, **kwargs):
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        await EventStreamResponse(source(), heartbeat_seconds=LONG)({"type": "http"}, receive, send)
    finally:
        loop.set_task_factory(None)
    assert len(made) == 1


async def test_a_stream_that_is_ended_says_so_even_where_nothing_comes() -> None:
    """And is not taken for one that its client left."""
    left = asyncio.Event()
    closed = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    sent: list[dict[str, Any]] = []
    began = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        began.set()

    async def receive() -> Any:
        await asyncio.Event().wait()

    response = EventStreamResponse(silent(), heartbeat_seconds=15, on_disconnect=left.set)
    answering = asyncio.create_task(response({"type": "http"}, receive, send))
    await began.wait()
    response.end(b"event: last\n\n")
    async with asyncio.timeout(30):
        await answering
    assert [message.get("body") for message in sent[2:]] == [b"event: last\n\n", b""]
    assert sent[-1]["more_body"] is False
    assert (closed.is_set(), left.is_set()) == (True, False)


async def test_a_stream_that_is_ended_waits_a_moment_only_for_a_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pilothouse.http.sse._LAST_WORD_SECONDS", 0.05)
    stuck = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: x\n\n"

    async def send(message: Any) -> None:
        if message.get("body") in (b"data: x\n\n", b"last"):
            stuck.set()
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    response = EventStreamResponse(chunks(), heartbeat_seconds=15)
    answering = asyncio.create_task(response({"type": "http"}, receive, send))
    await stuck.wait()
    response.end(b"last")
    async with asyncio.timeout(30):
        await answering
