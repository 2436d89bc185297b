"""The transport as any httpx2 client uses it, over real sockets."""

import asyncio
import gzip

import httpx2
import pytest
from aiohttp import web
from tests.llm.helpers import RecordingSink, byte_server
from yarl import URL

from pilothouse.llm.deltas import StreamTrace, current_trace
from pilothouse.llm.pace import Pace, Watch
from pilothouse.llm.proxies import Proxies
from pilothouse.llm.transport import AiohttpTransport

LENGTHY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"


@pytest.fixture
async def client():
    async with httpx2.AsyncClient(transport=AiohttpTransport(stall_seconds=0.2), timeout=60) as client:
        yield client


async def test_a_compressed_body_is_decoded_once(client):
    body = gzip.compress(b"hello" * 100)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with byte_server([[body]], head=head) as server:
        response = await client.get(server.url)
    assert response.text == "hello" * 100


async def test_method_query_headers_and_body_arrive_as_they_were_sent(client):
    async with byte_server([[b""]]) as server:
        await client.post(f"{server.url}/a%2Fb?q=a%20b", content=b"body", headers={"X-Name": "value", "Accept": "x/y"})
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/a%2Fb?q=a%20b HTTP/1.1\r\n")
    assert body == b"body"
    lowered = head.lower()
    assert b"x-name: value" in lowered
    assert lowered.count(b"accept: x/y") == lowered.count(b"accept: ") == 1
    assert lowered.count(b"host: ") == lowered.count(b"user-agent: ") == lowered.count(b"content-length: ") == 1


async def test_cookies_are_not_kept(client):
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with byte_server([[]], head=head) as server:
        await client.get(server.url)
        await client.get(server.url)
    assert b"cookie" not in server.requests[1].lower()


async def test_errors_are_those_of_httpx2(client):
    with pytest.raises(httpx2.ConnectError):
        await client.get("http://127.0.0.1:9/")
    async with byte_server([[b"short"]], head=LENGTHY) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(server.url)
    async with byte_server([[]], head=b"nonsense\r\n\r\n") as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(server.url)
    async with byte_server([[]], head=b"H", hold=True) as server:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(server.url, timeout=0.1)
    async with byte_server([[b"short"]], head=LENGTHY, hold=True) as server:
        with pytest.raises(httpx2.ReadTimeout):
            await client.get(server.url, timeout=httpx2.Timeout(5, read=0.1))
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_an_event_stream_that_falls_silent_times_out_sooner_than_the_request_asks(client):
    async with byte_server([[b"data: 1\n\n"]], hold=True) as server, client.stream("GET", server.url) as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"data: 1\n\n"
        with pytest.raises(httpx2.ReadTimeout):
            await anext(pieces)


async def test_a_stream_that_goes_on_is_not_silent(client):
    async def answer(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(8):
            await asyncio.sleep(0.05)
            await response.write(b": hb\n\n")
        return response

    app = web.Application()
    app.add_routes([web.get("/", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    response = await client.get(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    await runner.cleanup()
    assert response.content == b": hb\n\n" * 8


async def test_an_answer_that_has_ended_needs_no_closed_connection(client, monkeypatch):
    monkeypatch.setattr("pilothouse.llm.body._LINGER_SECONDS", 0.1)
    ending = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    async with byte_server([[ending]], hold=True) as server:
        token = current_trace.set(StreamTrace(RecordingSink()))
        response = await client.post(f"{server.url}/messages")
        current_trace.reset(token)
    assert response.content == ending


async def test_a_compressed_stream_is_left_to_the_sdk(client):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n"
    async with byte_server([[gzip.compress(b"data: {}\n\n")]], head=head) as server:
        trace = StreamTrace(RecordingSink())
        token = current_trace.set(trace)
        response = await client.post(f"{server.url}/messages")
        current_trace.reset(token)
    assert not trace.short_way
    assert response.content == b"data: {}\n\n"
    assert b"accept-encoding: identity" in server.requests[0].lower()


async def test_streams_read_on_one_beat_only_when_the_process_is_busy():
    pace = Pace(longest=0.01)
    assert pace.delay == 0
    pace._measured = (pace._measured[0] - 10, pace._measured[1] - 10)
    pace.measure()
    assert pace.delay == 0.01
    first, second = asyncio.create_task(pace.beat()), asyncio.create_task(pace.beat())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    pace._measured = (pace._measured[0] - 10, pace._measured[1])
    pace.measure()
    assert pace.delay == 0


async def test_a_stream_that_can_not_be_looked_at_leaves_the_others_watched():
    class Broken:
        limit = 0.01
        looks = 0

        def look(self, now):
            self.looks += 1
            raise RuntimeError("a bug")

    class Silent:
        limit = 0.01

        def __init__(self):
            self.looked = asyncio.Event()
            self.again = asyncio.Event()

        def look(self, now):
            (self.again if self.looked.is_set() else self.looked).set()

    watch, broken, silent = Watch(Pace()), Broken(), Silent()
    watch.add(broken)
    watch.add(silent)
    await asyncio.wait_for(silent.again.wait(), 60)
    watch.close()
    assert broken.looks == 1


async def test_watching_goes_on_when_the_pace_can_not_be_measured(monkeypatch):
    class Silent:
        limit = 0.01

        def __init__(self):
            self.looked = asyncio.Event()

        def look(self, now):
            self.looked.set()

    pace, silent = Pace(), Silent()
    watch = Watch(pace)
    failures = [OSError("no clock")]
    monkeypatch.setattr(pace, "measure", lambda: (_ for _ in ()).throw(failures.pop()) if failures else None)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: None)
    watch.add(silent)
    await asyncio.wait_for(silent.looked.wait(), 60)
    watch.close()


async def test_a_busy_process_still_gets_every_byte(monkeypatch):
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
    async with byte_server([[chunk] * 50 + [b"data: [DONE]\n\n"]]) as server:
        transport = AiohttpTransport()
        monkeypatch.setattr(transport._pace, "delay", 0.005)
        monkeypatch.setattr(transport._pace, "measure", lambda: None)
        async with httpx2.AsyncClient(transport=transport) as client:
            sink = RecordingSink()
            token = current_trace.set(StreamTrace(sink))
            await client.post(f"{server.url}/chat/completions")
            current_trace.reset(token)
    assert sink.joined() == "word " * 50


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:1"}, "http://proxy:1"),
        ({"http_proxy": "http://proxy:1"}, None),
        ({"ALL_PROXY": "proxy:1"}, "http://proxy:1"),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "example.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:1", "no_proxy": "*"}, None),
    ],
)
def test_proxies_are_those_of_the_usual_variables(environ, expected):
    proxy, headers = Proxies(environ).proxy_for(URL("https://api.example.com/v1"))
    assert (None if proxy is None else str(proxy)) == expected
    assert headers == {}


def test_a_proxys_credentials_are_taken_out_of_its_address():
    proxy, headers = Proxies({"https_proxy": "http://me:secret@proxy:1"}).proxy_for(URL("https://a/"))
    assert str(proxy) == "http://proxy:1"
    assert headers == {"Proxy-Authorization": "Basic bWU6c2VjcmV0"}
