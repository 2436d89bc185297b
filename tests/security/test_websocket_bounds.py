"""What a WebSocket's peer can make our own server keep and do. The transport is one that a test can fill."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pilothouse.server.connections import Connections
from pilothouse.server.limits import Limits
from pilothouse.server.websocket import (
    CLOSE_SECONDS,
    FRAMES_PER_SECOND,
    MESSAGE_SECONDS,
    PIECE_BYTES,
    WebSocketProtocol,
)
from pilothouse.settings import ServerSettings

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CONTINUATION, PING = 1, 0, 9
HIGH_WATER = 65_536


class Transport(asyncio.Transport):
    """A connection whose peer reads only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: Any = None
        self.written = bytearray()
        self.unread = 0
        self.reading = True
        self.closing = False
        self.aborted = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += data
        before, self.unread = self.unread, self.unread + len(data)
        if before <= HIGH_WATER < self.unread:
            self.protocol.pause_writing()

    def peer_reads(self) -> None:
        paused, self.unread = self.unread > HIGH_WATER, 0
        if paused:
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True
        self.aborted.set()


class Loop:
    """The event loop, whose time a test can move on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.shift = 0.0

    def time(self) -> float:
        return self._loop.time() + self.shift

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class Application:
    """Accepts when it is told to, and takes messages when it is told to."""

    def __init__(self) -> None:
        self.may_accept = asyncio.Event()
        self.accepted = asyncio.Event()
        self.receive: Any = None
        self.refuses = False
        self.leave = asyncio.Event()

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await self.may_accept.wait()
        await send({"type": "websocket.close"} if self.refuses else {"type": "websocket.accept"})
        self.receive = receive
        self.accepted.set()
        await self.leave.wait()


class Peer:
    def __init__(self) -> None:
        self.application = Application()
        config = uvicorn.Config(
            self.application, log_config=None, ws_max_size=1_048_576, ws_per_message_deflate=False, lifespan="off"
        )
        config.load()
        self.transport = Transport()
        self.state = ServerState()
        self.protocol = WebSocketProtocol(config, self.state, {}, connections=Connections(Limits.of(ServerSettings())))
        self.loop = self.protocol.loop = Loop()
        self.transport.protocol = self.protocol
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(HANDSHAKE)

    async def accepted(self) -> "Peer":
        self.application.may_accept.set()
        await self.application.accepted.wait()
        self.transport.written.clear()
        self.transport.unread = 0
        return self

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def kept(self) -> int:
        """Messages and fragments that became objects."""
        return self.protocol.queue.qsize() + len(self.protocol.frames)


def frame(kind: int, data: bytes = b"", *, final: bool = True) -> bytes:
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xff" + struct.pack("!Q", len(data))
    return bytes([(0x80 if final else 0) | kind]) + length + b"\0\0\0\0" + data


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    made.application.may_accept.set()
    made.application.leave.set()
    await asyncio.gather(*made.state.tasks)
    made.protocol.connection_lost(None)


async def test_messages_whole_and_in_pieces_reach_the_application(peer: Peer) -> None:
    await peer.accepted()
    long = json.dumps("é" * 40_000, ensure_ascii=False)
    halves = long.encode()[:30_001], long.encode()[30_001:]  # cuts a character
    peer.send(frame(TEXT, b"one") + frame(TEXT, halves[0], final=False) + frame(PING, b"hi"))
    peer.send(frame(CONTINUATION, halves[1]) + frame(2, b"a", final=False) + frame(CONTINUATION, b"b"))
    messages = [await peer.application.receive() for _ in range(3)]
    assert [message.get("text") or message.get("bytes") for message in messages] == ["one", long, b"ab"]
    assert type(messages[2]["bytes"]) is bytes
    assert peer.transport.written == b"\x8a\x02hi"


async def test_nothing_is_parsed_before_the_handshake_is_answered(peer: Peer) -> None:
    peer.send(frame(TEXT, b"x") * 1000)
    assert not peer.transport.reading
    assert peer.kept <= 1  # that it connects
    await peer.accepted()
    assert (await peer.application.receive())["text"] == "x"


async def test_what_comes_is_parsed_as_the_application_takes_it(peer: Peer) -> None:
    await peer.accepted()
    peer.send(frame(TEXT) * 30_000)
    assert peer.kept <= PIECE_BYTES // 6 + 1
    assert not peer.transport.reading
    for _ in range(1_000):
        await peer.application.receive()
        assert peer.kept <= PIECE_BYTES // 6 + 1


async def test_a_message_of_endless_fragments_costs_its_bytes(peer: Peer) -> None:
    await peer.accepted()
    peer.send(frame(TEXT, b"x", final=False) + frame(CONTINUATION, b"x", final=False) * 1_500)
    assert len(peer.protocol.frames) == 1
    assert bytes(peer.protocol.frames[0]) == b"x" * len(peer.protocol.frames[0])
    assert len(peer.protocol.frames[0]) > FRAMES_PER_SECOND


async def test_the_size_of_a_message_is_that_of_its_fragments_together(peer: Peer) -> None:
    await peer.accepted()
    half = b"x" * 600_000
    peer.send(frame(TEXT, half, final=False) + frame(CONTINUATION, half))
    assert peer.transport.written[:4] == b"\x88" + peer.transport.written[1:2] + struct.pack("!H", 1009)
    assert peer.transport.closing


async def test_pings_are_answered_only_to_a_peer_that_reads(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.protocol._bucket, "_burst", 1e9)
    monkeypatch.setattr(peer.protocol._bucket, "_tokens", 1e9)
    await peer.accepted()
    for _ in range(100):
        if peer.transport.reading:
            peer.send(frame(PING, b"x" * 125) * 100)
    assert not peer.transport.reading
    assert peer.transport.unread < HIGH_WATER + 2 * PIECE_BYTES
    peer.transport.peer_reads()
    while not peer.transport.reading:
        peer.transport.peer_reads()
    peer.send(frame(TEXT, b"and on"))
    assert (await peer.application.receive())["text"] == "and on"


async def test_frames_of_all_kinds_are_counted(peer: Peer) -> None:
    await peer.accepted()
    sent = 0
    while peer.transport.reading and sent < 100:
        peer.send(frame(PING) * 500)
        sent += 1
    assert not peer.transport.reading
    assert len(peer.transport.written) // 2 <= FRAMES_PER_SECOND * 1.5 + PIECE_BYTES
    async with asyncio.timeout(30):
        while not peer.transport.reading:
            await asyncio.sleep(0)


async def test_a_message_has_to_be_whole_in_time(peer: Peer) -> None:
    await peer.accepted()
    peer.send(frame(TEXT, b"whole"))
    await peer.application.receive()
    peer.protocol.check(peer.now + 10 * MESSAGE_SECONDS)
    peer.send(frame(TEXT, b"x" * 1000)[:500])
    peer.protocol.check(peer.now + MESSAGE_SECONDS - 1)
    assert not peer.transport.closing
    peer.protocol.check(peer.now + MESSAGE_SECONDS)
    assert struct.pack("!H", 1008) in peer.transport.written
    peer.protocol.check(peer.now + CLOSE_SECONDS)
    assert peer.transport.aborted.is_set()


async def test_a_peer_that_does_not_read_the_rest_is_cut_when_the_application_has_left(peer: Peer) -> None:
    await peer.accepted()
    peer.application.leave.set()
    await asyncio.gather(*peer.state.tasks)
    peer.protocol.check(peer.now + CLOSE_SECONDS - 1)
    assert not peer.transport.aborted.is_set()
    peer.protocol.check(peer.now + CLOSE_SECONDS)
    assert peer.transport.aborted.is_set()


async def test_a_peer_that_does_not_read_its_refusal_is_cut_though_the_application_stays(peer: Peer) -> None:
    peer.application.refuses = True
    await peer.accepted()
    peer.protocol.check(peer.now + CLOSE_SECONDS)
    assert peer.transport.aborted.is_set()


async def test_the_time_of_a_message_is_not_that_of_the_next(peer: Peer) -> None:
    await peer.accepted()
    message = frame(TEXT, b"x" * 1000)
    peer.send(message[:500])
    peer.loop.shift += MESSAGE_SECONDS - 1
    peer.send(message[500:] + message[:500])
    await peer.application.receive()
    peer.loop.shift += MESSAGE_SECONDS - 1
    peer.protocol.check(peer.now)
    assert not peer.transport.closing
    peer.send(message[500:])
    peer.protocol.check(peer.now + 10 * MESSAGE_SECONDS)
    assert not peer.transport.closing


async def test_a_message_that_we_do_not_read_on_is_not_late(peer: Peer) -> None:
    await peer.accepted()
    half = frame(TEXT, b"x" * 1000)
    peer.send(frame(TEXT, b"whole") + half[:500])
    assert not peer.transport.reading  # the application has not taken the first one
    peer.protocol.check(peer.now + MESSAGE_SECONDS)
    assert not peer.transport.closing
    assert (await peer.application.receive())["text"] == "whole"
    peer.send(half[500:])
    assert (await peer.application.receive())["text"] == "x" * 1000


async def test_a_peer_that_answers_no_ping_is_cut(peer: Peer) -> None:
    await peer.accepted()
    peer.protocol.keepalive_timeout()
    peer.protocol.check(peer.now + CLOSE_SECONDS)
    assert peer.transport.aborted.is_set()
