"""Bytes on a socket: what is malformed, too much, too slow or too often ends; everybody else is served meanwhile."""

import asyncio
import contextlib
import socket

import pytest
from starlette.types import Receive, Scope, Send
from tests.support.bounded import bounded
from tests.support.logs import logged_by
from tests.support.raw_http import GUARD_SECONDS, RawClient

from pilothouse.server import connections as connections_module
from pilothouse.server.protocol import MOST_PIPELINED

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BIG = 64 * 1024 * 1024
"""More than the systems' own buffers hold."""


class App:
    """Answers with the size of the body. /big is a large plain answer, /events a stream that ends with `release`,
    /export one of JSON without end, /held waits for `release`, /early answers before it reads, /polled asks again and
    again whether its caller has left.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.ended: list[str] = []
        self.release = asyncio.Event()
        self.events = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        try:
            await getattr(self, "_" + scope["path"].strip("/"), self._size)(receive, send)
        finally:
            self.ended.append(scope["path"])

    async def _size(self, receive: Receive, send: Send) -> None:
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await _answer(send, str(size).encode())

    async def _early(self, receive: Receive, send: Send) -> None:
        await _answer(send, b"early")

    async def _held(self, receive: Receive, send: Send) -> None:
        await self.release.wait()
        await _answer(send, b"held")

    async def _polled(self, receive: Receive, send: Send) -> None:
        while not self.release.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    if (await receive())["type"] == "http.disconnect":
                        return
        await _answer(send, b"polled")

    async def _big(self, receive: Receive, send: Send) -> None:
        await _answer(send, bytes(BIG))

    async def _export(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:  # in chunks, as an export of unknown length
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)

    async def _events(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not self.release.is_set():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            self.events += 1
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"end"})


async def _answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def app() -> App:
    return App()


async def until(condition) -> None:
    """Wait for what only the other side's progress brings about."""
    async with asyncio.timeout(GUARD_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def is_served(server) -> bool:
    return (await server.ask(GET)).status == 200


# --- sizes


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ", b"a" * 16384, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: b\r\n" * 2000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-" + b"n" * 16384, 431),
        (b"GET /", b"a" * 16384, 414),
        (b"", b"\r\n" * 8192, 431),
        (CHUNKED + b"5;ext=", b"e" * 16384, 431),
        (CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: ", b"t" * 16384, 431),
        (CHUNKED, b"1;" + b"e" * 4096 + b"\r\nx\r\n", 431),
    ],
    ids=["line", "headers", "name", "target", "empty lines", "chunk extension", "trailer", "chunk extensions"],
)
async def test_what_goes_on_without_end_is_refused_after_64_kb(app, start, piece, status):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(start)
        answer = await client.flood(piece, 16 * 1024 * 1024)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.code in {"headers_too_large", "uri_too_long"}
        assert await client.rest() == b""
        assert client.sent < 4 * 1024 * 1024
        assert await is_served(server)


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_head_of_64_kb_is_taken_and_one_of_a_byte_more_is_not(app, parts):
    async with bounded(app) as server:
        for size, status in ((65536, 200), (65537, 431)):
            start, end = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Pad: ", b"\r\n\r\n"
            head = start + b"p" * (size - len(start) - len(end)) + end
            client = await server.connect()
            step = -(-len(head) // parts)
            for begin in range(0, len(head), step):
                await client.send(head[begin : begin + step])
            assert (await client.answer()).status == status


async def test_the_second_of_two_requests_in_one_packet_has_the_same_bounds(app):
    async with bounded(app, max_header_bytes=4096) as server:
        for size, status in ((4096 - 40, 200), (4096 + 40, 431)):
            client = await server.connect()
            await client.send(GET + GET[:-2] + b"X: " + b"p" * (size - len(GET) - 5) + b"\r\n\r\n")
            assert (await client.answer()).status == 200
            if status == 200:
                assert (await client.answer()).status == 200
            else:  # the first one may still have been under way: then the connection ends without a word
                rest = await client.rest()
                assert rest == b"" or b"headers_too_large" in rest


@pytest.mark.parametrize(("size", "status"), [(4096 - 100, 200), (4096 + 100, 431)])
async def test_a_head_that_began_behind_another_request_has_the_same_bounds(app, size, status):
    async with bounded(app, max_header_bytes=4096) as server:
        client = await server.connect()
        begin, end = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"\r\n\r\n"
        head = begin + b"p" * (size - len(begin) - len(end)) + end
        assert (await client.ask(GET + head[:2000])).status == 200
        assert (await client.ask(head[2000:])).status == status


async def test_100_headers_are_taken_and_101_are_not(app):
    async with bounded(app) as server:
        for number, status in ((99, 200), (100, 431)):
            more = b"".join(b"X-%d: y\r\n" % index for index in range(number))
            answer = await server.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")
            assert answer.status == status


async def test_small_chunks_are_taken(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(CHUNKED)
        for _ in range(50):
            await client.send(b"1\r\nx\r\n" * 1000)
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).body == b"50000"


async def test_trailers_do_not_become_headers(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(CHUNKED)
        await until(lambda: app.scopes)
        await client.send(b"2\r\nhi\r\n0\r\nAuthorization: Bearer stolen\r\n\r\n")
        assert (await client.answer()).body == b"2"
        assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]
        assert (await client.ask(GET)).status == 200


# --- time


@pytest.mark.parametrize("start", [b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r"])
async def test_a_head_that_does_not_end_is_answered_408(app, start):
    async with bounded(app, header_seconds=0.2) as server:
        client = await server.connect()
        answer = await client.ask(start)
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert await client.rest() == b""
        assert app.scopes == []


async def test_bytes_that_trickle_do_not_move_the_deadline(app):
    async with bounded(app, header_seconds=0.3) as server:
        client = await server.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        answering = asyncio.create_task(client.answer())
        while not answering.done() and await client.send(b"x"):
            await asyncio.sleep(0.02)
        assert (await answering).status == 408


async def test_a_further_request_of_a_connection_has_the_same_deadline(app):
    async with bounded(app, header_seconds=0.2) as server:
        client = await server.connect()
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(b"GET / HT")).status == 408


async def test_a_head_that_began_behind_another_request_has_the_same_deadline(app):
    async with bounded(app, header_seconds=0.2) as server:
        client = await server.connect()
        assert (await client.ask(GET + b"GET / HT")).status == 200
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")


async def test_a_connection_without_a_request_is_closed_without_an_answer(app):
    async with bounded(app, header_seconds=0.2) as server:
        client = await server.connect()
        assert await client.rest() == b""


async def test_an_idle_connection_is_closed_also_after_a_body_that_came_behind_its_answer(app):
    async with bounded(app, keep_alive_seconds=1) as server:
        client = await server.connect()
        assert (await client.ask(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")).body == b"early"
        await client.send(b"hi")
        assert await client.rest() == b""


async def test_a_body_that_trickles_is_answered_408_and_its_application_is_told(app):
    async with bounded(app, body_seconds=0.3) as server:
        for start in (HEAD + b"Content-Length: 1000\r\n\r\n", CHUNKED):
            client = await server.connect()
            await client.send(start)
            answering = asyncio.create_task(client.answer())
            while not answering.done() and await client.send(b"1\r\nx\r\n"):
                await asyncio.sleep(0.02)
            answer = await answering
            assert (answer.status, answer.code) == (408, "request_timeout")
            await until(lambda: len(app.ended) == len(app.scopes))


async def test_a_body_that_began_fast_and_then_trickles_is_answered_408(app):
    async with bounded(app, body_seconds=0.3) as server:
        client = await server.connect()
        await client.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + bytes(500_000))
        answering = asyncio.create_task(client.answer())
        while not answering.done() and await client.send(b"x"):
            await asyncio.sleep(0.02)
        answer = await answering
        assert (answer.status, answer.code) == (408, "request_timeout")


async def test_a_body_that_stands_still_after_its_answer_is_cut(app):
    async with bounded(app, body_seconds=0.2) as server:
        client = await server.connect()
        answer = await client.ask(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n12345")
        assert answer.body == b"early"
        assert await client.rest() == b""


async def test_a_body_without_end_is_cut_once_it_was_answered(app):
    async with bounded(app) as server:
        client = await server.connect()
        answer = await client.ask(b"POST /early HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert answer.body == b"early"
        while await client.send(b"10000\r\n" + bytes(65536) + b"\r\n"):
            assert client.sent < 64 * 1024 * 1024
        assert await is_served(server)


async def test_a_slow_body_at_the_rate_is_taken(app):
    async with bounded(app, body_seconds=0.2, min_bytes_per_second=1000) as server:
        client = await server.connect()
        await client.send(HEAD + b"Content-Length: 20000\r\n\r\n")
        for _ in range(20):
            await client.send(bytes(1000))
            await asyncio.sleep(0.05)
        assert (await client.answer()).body == b"20000"


async def test_a_client_that_waits_to_be_told_to_send_its_body_is_not_slow(app):
    async with bounded(app, body_seconds=0.1) as server:
        client = await server.connect()
        await client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await until(lambda: app.scopes)
        await asyncio.sleep(0.5)  # several periods
        server.do(app.release.set)
        assert (await client.answer()).body == b"held"


async def test_a_reader_that_stands_still_is_cut_and_its_memory_let_go(app):
    async with bounded(app, send_seconds=0.3, keep_alive_seconds=1) as server:
        client = await server.connect(receive_buffer=65536)
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: app.ended)
        await until(lambda: len(server.connections) == 0)
        assert await is_served(server)


async def test_a_reader_of_a_large_answer_may_take_longer_than_the_period(app):
    async with bounded(app, send_seconds=0.2) as server:
        client = await server.connect(receive_buffer=65536)
        await client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        got = 0
        for _ in range(20):
            got += len(await client.reader.readexactly(2**18))
            await asyncio.sleep(0.05)
        got += len(await client.reader.readexactly(BIG - got))
        assert got == BIG


async def test_a_reader_of_an_answer_in_chunks_that_stands_still_is_cut_as_well(app):
    async with bounded(app, send_seconds=0.3, keep_alive_seconds=1) as server:
        client = await server.connect(receive_buffer=65536)
        await client.send(b"GET /export HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: app.scopes)
        await until(lambda: len(server.connections) == 0)
        assert await is_served(server)


@pytest.mark.parametrize("together", [True, False], ids=["pipelined", "one after the other"])
async def test_a_reader_that_stands_still_is_cut_though_it_has_asked_for_more(app, together):
    """Seen in an attack: a request behind an answer that nobody read kept its connection for ever."""
    async with bounded(app, send_seconds=0.3, keep_alive_seconds=1) as server:
        client = await server.connect(receive_buffer=65536)
        request = b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"
        await client.send(request * (2 if together else 1))
        await until(lambda: app.scopes)
        if not together:
            await client.send(request)
        await until(lambda: len(server.connections) == 0)
        assert await is_served(server)


async def test_a_reader_of_an_event_stream_may_stand_still(app):
    async with bounded(app, send_seconds=0.1, body_seconds=0.1, header_seconds=0.1) as server:
        client = await server.connect(receive_buffer=65536)
        await client.send(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = -1
        while seen != app.events:  # until it waits for its reader
            seen = app.events
            await asyncio.sleep(0.3)
        server.do(app.release.set)
        assert (await client.answer()).body.endswith(b"end")


# --- connections


async def test_over_the_limit_a_new_connection_is_answered_503_and_the_others_live_on(app):
    async with bounded(app, max_connections=5) as server:
        held = [await server.connect() for _ in range(5)]
        for client in held:
            await client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(app.scopes) == 5)
        for _ in range(60):
            client = await server.connect()
            refused = await client.rest()
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5\r\n" in refused.lower()
            assert b'"too_many_connections"' in refused
            client.close()
        server.do(app.release.set)
        assert [(await client.answer()).body for client in held] == [b"held"] * 5
        held[0].close()
        await until(lambda: len(server.connections) < 5)
        assert await is_served(server)


async def test_a_bounded_number_of_refused_connections_is_kept_and_each_for_a_moment(app):
    async with bounded(app, max_connections=5) as server:
        held = [await server.connect() for _ in range(5)]
        for client in held:
            await client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(app.scopes) == 5)
        for client in [await server.connect() for _ in range(2 * connections_module.MOST_LINGERING)]:
            assert (await client.answer()).status == 503
            assert server.connections.lingering <= connections_module.MOST_LINGERING
        await until(lambda: server.connections.lingering == 0)  # though their clients stay
        server.do(app.release.set)
        assert [(await client.answer()).body for client in held] == [b"held"] * 5


async def test_at_the_limit_the_oldest_connection_without_a_request_gives_way(app):
    async with bounded(app, max_connections=5) as server:
        working = await server.connect()
        assert (await working.ask(GET)).status == 200
        silent = [await server.connect() for _ in range(4)]
        await until(lambda: len(server.connections) == 5)
        assert await is_served(server)
        assert await silent[0].rest() == b""
        assert (await working.ask(GET)).status == 200
        assert (await silent[3].ask(GET)).status == 200


async def test_300_half_sent_requests_do_not_keep_others_out(app):
    async with bounded(app, max_connections=50) as server:
        for _ in range(300):
            await (await server.connect()).send(b"GET / HTTP/1.1\r\nHost: a\r\n")
            assert len(server.connections) <= 50
        assert await is_served(server)


async def test_a_pipeline_is_answered_in_order(app):
    async with bounded(app) as server:
        client = await server.connect()
        bodies = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % n + bytes(n) for n in range(10)]
        await client.send(b"".join(bodies))
        assert [(await client.answer()).body for _ in range(10)] == [b"%d" % n for n in range(10)]


async def test_a_long_pipeline_waits_outside_and_is_answered_whole(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(
            b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 2000 + HEAD + b"Content-Length: 3\r\n\r\nend"
        )
        await until(lambda: app.scopes)
        (protocol,) = server.protocols()
        assert len(protocol.pipeline) <= MOST_PIPELINED
        server.do(app.release.set)
        assert (await client.answer()).body == b"held"
        for _ in range(2000):
            assert (await client.answer()).body == b"0"
        assert (await client.answer()).body == b"3"


async def test_a_flood_of_pipelined_requests_is_not_read(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: app.scopes)
        client.writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(TimeoutError):  # it is the server that stops, not the connection that ends
            async with asyncio.timeout(1):
                while await client.send(GET * 1000):
                    assert client.sent < 64 * 1024 * 1024
                pytest.fail("the connection was closed")
        (protocol,) = server.protocols()
        assert len(protocol.pipeline) <= MOST_PIPELINED
        assert len(protocol._held) < 1024 * 1024
        assert await is_served(server)


async def test_an_application_is_told_that_its_client_has_left_though_further_requests_wait(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(b"GET /polled HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        await until(lambda: app.scopes)
        client.close()
        await until(lambda: app.ended)
        await until(lambda: len(server.connections) == 0)
        assert [scope["path"] for scope in app.scopes] == ["/polled"]


async def test_a_flood_of_pipelined_requests_ends_where_the_application_reads_on(app):
    async with bounded(app) as server:
        client = await server.connect()
        await client.send(b"GET /polled HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: app.scopes)
        async with asyncio.timeout(GUARD_SECONDS):
            while await client.send(GET * 1000):
                assert client.sent < 64 * 1024 * 1024
        await until(lambda: app.ended)
        assert await is_served(server)


# --- what is no request


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("16030100b0010000ac0303") + bytes(160),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(range(256)) * 8,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tfolded\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    ],
    ids=lambda data: repr(data[:34])[2:-1],
)
async def test_what_is_not_http_is_answered_400_and_closed(app, data):
    async with bounded(app) as server:
        client = await server.connect()
        answer = await client.ask(data)
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await client.rest() == b""
        assert app.scopes == []
        assert await is_served(server)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Content-Length:\r\n",
        b"Content-Length : 5\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b"Transfer-Encoding: chunked\r\n Content-Length: 5\r\n",
    ],
    ids=lambda head: head.decode("latin-1").strip().replace("\r\n", " | "),
)
async def test_a_body_whose_length_can_be_read_in_two_ways_is_refused_and_what_follows_is_no_request(app, head):
    async with bounded(app) as server:
        client = await server.connect()
        answer = await client.ask(HEAD + head + b"\r\n0\r\n\r\n" + GET)
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await client.rest() == b""
        assert all(scope["method"] == "POST" for scope in app.scopes)
        assert app.scopes == []


@pytest.mark.parametrize(
    "chunks",
    [b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n",
     b"fffffffffffffffff\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\rXhello\r\n0\r\n\r\n", b"\r\n", b"5;a\nb\r\nhello\r\n"],
)  # fmt: skip
async def test_chunks_that_can_be_read_in_two_ways_are_refused(app, chunks):
    async with bounded(app) as server:
        client = await server.connect()
        answer = await client.ask(CHUNKED + chunks + GET)
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert await client.rest() == b""
        await until(lambda: len(app.ended) == len(app.scopes))
        assert [scope["method"] for scope in app.scopes] in ([], ["POST"])


async def test_http_1_0_has_no_chunks(app):
    async with bounded(app) as server:
        answer = await server.ask(CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n")
        assert (answer.status, answer.code) == (400, "malformed_request")


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/2.0"])
async def test_another_version_is_answered_505(app, version):
    async with bounded(app) as server:
        answer = await server.ask(b"GET / " + version + b"\r\nHost: a\r\n\r\n")
        assert (answer.status, answer.code) == (505, "http_version_not_supported")


async def test_bytes_behind_an_upgrade_we_do_not_know_are_no_request(app):
    async with bounded(app) as server:
        client = await server.connect()
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        await client.send(upgrade + GET * 3)
        assert (await client.rest()).count(b"HTTP/1.1 200") == 1
        assert len(app.scopes) == 1


# --- WebSockets

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket":
        await _answer(send, b"http")
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def test_a_handshake_has_the_bounds_of_a_request(app):
    async with bounded(echo, header_seconds=0.2) as server:
        assert (await server.ask(UPGRADE)).status == 408
        many = b"".join(b"X-%d: y\r\n" % index for index in range(100))
        assert (await server.ask(UPGRADE + KEY + many + b"\r\n")).status == 431


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE + KEY + b"X: " + b"y" * 20_000 + b"\r\n\r\n",
        (UPGRADE + KEY).replace(b"GET", b"POST") + b"\r\n",
        UPGRADE + KEY + b"Content-Length: 5\r\n\r\nhello",
        UPGRADE + KEY + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UPGRADE + b"\r\n",
    ],
    ids=["long line", "POST", "body", "chunked", "no key"],
)
async def test_a_handshake_that_is_none_is_refused_and_closed(request_):
    async with bounded(echo) as server:
        client = await server.connect()
        answer = await client.ask(request_)
        assert 400 <= answer.status < 500
        await client.rest()
        await until(lambda: len(server.connections) == 0)


@pytest.mark.parametrize("earlier", [b"", GET], ids=["new connection", "after a request"])
async def test_no_time_limit_of_requests_applies_to_an_open_websocket(earlier):
    limits = {"keep_alive_seconds": 1, "header_seconds": 0.2, "body_seconds": 0.2, "send_seconds": 0.2}
    async with bounded(echo, **limits) as server:
        client = await server.connect()
        if earlier:
            assert (await client.ask(earlier)).status == 200
        assert (await client.ask(UPGRADE + KEY + b"\r\n")).status == 101
        await asyncio.sleep(1.5)  # longer than each of them
        await client.send(b"\x81\x82\x00\x00\x00\x00hi")
        assert await client.reader.readexactly(4) == b"\x81\x02hi"


async def test_a_websocket_counts_as_a_connection_until_it_ends():
    async with bounded(echo, max_connections=1, header_seconds=0.1) as server:
        client = await server.connect()
        await client.send(UPGRADE + KEY + b"\r\n")
        assert (await client.answer()).status == 101
        await asyncio.sleep(0.5)  # it has no deadline any more
        assert (await (await server.connect()).answer()).status == 503
        await client.send(b"\x81\x82\x00\x00\x00\x00hi")
        assert await client.reader.readexactly(4) == b"\x81\x02hi"
        client.close()
        await until(lambda: len(server.connections) == 0)
        assert await is_served(server)


# --- all at once


async def test_a_client_beside_a_crowd_of_hostile_ones_is_answered_meanwhile(app):
    stopping = asyncio.Event()

    async def attack(server, start: bytes, piece: bytes) -> None:
        while not stopping.is_set():
            client = await RawClient.connect(server.port)
            await client.send(start)
            with contextlib.suppress(OSError, EOFError):
                await client.flood(piece, 4 * 1024 * 1024)
            client.close()

    async with bounded(app, max_connections=40, header_seconds=1) as server:
        kinds = [
            (b"GET / HTTP/1.1\r\nX: ", b"a" * 65536),
            (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 10_000),
            (GET * 1000, GET * 1000),
            (b"\x16\x03\x01", bytes(1000)),
            (CHUNKED + b"5;", b"e" * 65536),
        ]
        attackers = [asyncio.create_task(attack(server, *kind)) for kind in kinds * 2]
        silent = [await server.connect() for _ in range(50)]
        for _ in range(20):
            assert await is_served(server)
        stopping.set()
        await asyncio.gather(*attackers)
        assert len(silent) == 50


async def test_a_flood_of_refusals_is_a_line_in_the_log_and_not_a_flood(app):
    with logged_by(connections_module) as lines:
        async with bounded(app, header_seconds=0.4) as server:
            for _ in range(200):
                assert (await server.ask(b"junk\r\n\r\n")).status == 400
            await server.connect()
            await until(lambda: len(lines) >= 1)
    refused = [line for line in lines if line["event"] == "requests_refused"]
    assert 1 <= len(refused) <= 3
    assert sum(line["reasons"].get("malformed_request", 0) for line in refused) == 200


async def test_a_client_that_leaves_at_any_moment_leaves_nothing_behind(app):
    whole = HEAD + b"Content-Length: 5\r\n\r\nhello"
    async with bounded(app) as server:
        for cut in range(0, len(whole), 3):
            client = await server.connect()
            await client.send(whole[:cut])
            if cut % 2:
                client.writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                )
            client.close()
        await until(lambda: len(server.connections) == 0 and len(app.ended) == len(app.scopes))
