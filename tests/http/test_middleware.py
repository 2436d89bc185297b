import asyncio
import io
import json
import logging
import socket
from contextlib import suppress

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse, StreamingResponse
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pilothouse.errors import Conflict, Unauthenticated
from pilothouse.http.bodies import read_json
from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers
from pilothouse.observability import configure_logging
from pilothouse.settings import LogSettings, load_settings

LIMIT = 2048


class Lines(io.StringIO):
    """Log lines, and an event for each wait."""

    def __init__(self):
        super().__init__()
        self.written = asyncio.Event()

    def flush(self):
        self.written.set()

    def requests(self):
        return [line for line in map(json.loads, self.getvalue().splitlines()) if line["event"] == "request"]

    async def request(self, path):
        async with asyncio.timeout(5):
            while True:
                self.written.clear()
                for line in self.requests():
                    if line["path"] == path:
                        return line
                await self.written.wait()


@pytest.fixture
def logs():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out = Lines()
    configure_logging(LogSettings(level="debug"), "production", stream=out)
    yield out
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def make_app(**server) -> FastAPI:
    app = FastAPI(docs_url=None)
    install_problem_handlers(app)
    add_middleware(app, load_settings(None, server={"max_body_bytes": LIMIT, **server}))
    app.state.received = 0
    app.state.left = asyncio.Event()

    @app.get("/v1/me")
    async def me(request: Request):
        return {"id": request.state.request_id, "context": structlog.contextvars.get_contextvars()}

    @app.get("/v1/leaky")
    async def leaky():
        structlog.contextvars.bind_contextvars(tenant="acme")
        return {}

    @app.get("/health/live")
    async def live():
        return {}

    @app.get("/page")
    async def page():
        return HTMLResponse("<p>hello", headers={"X-Frame-Options": "SAMEORIGIN"})

    @app.get("/v1/cached")
    async def cached():
        return HTMLResponse("", headers={"Cache-Control": "max-age=5"})

    @app.get("/v1/bug")
    async def bug():
        raise ZeroDivisionError

    @app.get("/v1/busy")
    async def busy():
        raise Conflict("Busy.", code="conversation_busy")

    @app.post("/v1/echo")
    async def echo(body: dict[str, str]):
        return body

    @app.post("/v1/raw")
    async def raw(request: Request):
        async for part in request.stream():
            app.state.received += len(part)
        return app.state.received

    @app.get("/v1/stream")
    async def stream():
        async def parts():
            try:
                yield b"one"
                await asyncio.Event().wait()
            finally:
                app.state.left.set()

        return StreamingResponse(parts())

    @app.get("/v1/breaks")
    async def breaks():
        async def parts():
            yield b"half"
            raise ZeroDivisionError

        return StreamingResponse(parts())

    @app.websocket("/v1/ws/{mode}")
    async def ws(websocket: WebSocket, mode: str):
        if mode == "refuse":
            raise Unauthenticated("Send a token.")
        if mode == "bug-early":
            raise ZeroDivisionError
        await websocket.accept()
        if mode == "bug":
            raise ZeroDivisionError
        if mode == "error":
            raise Conflict("Busy.", code="conversation_busy")
        while True:
            await websocket.send_json(
                {"id": websocket.state.request_id, "got": read_json(await websocket.receive_text())}
            )

    return app


@pytest.fixture
async def site(serve, logs):
    """A running app: `client, app, port`."""
    app = make_app()
    server = await serve(app)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client, app, server.port


async def test_a_sensible_request_id_is_taken_returned_and_bound(site):
    client, _, _ = site
    response = await client.get("/v1/me", headers={"X-Request-ID": "Trace.1_2-3"})
    assert response.headers["x-request-id"] == "Trace.1_2-3"
    assert response.json() == {"id": "Trace.1_2-3", "context": {"request_id": "Trace.1_2-3"}}


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ümlaut".encode(), "a;b", "<script>"])
async def test_other_request_ids_are_replaced(site, given):
    client, _, _ = site
    response = await client.get("/v1/me", headers={"X-Request-ID": given})
    assert response.headers.get_list("x-request-id") == [response.json()["id"]]
    assert response.json()["id"].startswith("req_")


async def test_context_of_one_request_is_not_seen_by_the_next_of_its_connection(site, connect):
    _, _, port = site
    reader, writer = await connect(port)
    ask = "GET {} HTTP/1.1\r\nHost: t\r\nConnection: {}\r\n\r\n"
    # Both at once: uvicorn starts the second in the context of the first.
    writer.write((ask.format("/v1/leaky", "keep-alive") + ask.format("/v1/me", "close")).encode())
    async with asyncio.timeout(5):
        answers = await reader.read()
    context = json.loads(answers.rpartition(b"\r\n\r\n")[2])["context"]
    assert context.keys() == {"request_id"}


async def test_one_line_is_logged_for_a_request_without_its_query(site, logs):
    client, _, _ = site
    response = await client.get("/v1/me?token=hunter2")
    line = await logs.request("/v1/me")
    assert line["duration_ms"] >= 0
    assert (line["method"], line["status"], line["level"]) == ("GET", 200, "info")
    assert line["request_id"] == response.headers["x-request-id"]
    assert len(logs.requests()) == 1
    assert "hunter2" not in logs.getvalue()


async def test_health_is_logged_at_debug_and_failures_as_warnings_with_a_code(site, logs):
    client, _, _ = site
    await client.get("/health/live")
    assert (await logs.request("/health/live"))["level"] == "debug"
    await client.get("/v1/busy")
    line = await logs.request("/v1/busy")
    assert (line["level"], line["status"], line["code"]) == ("info", 409, "conversation_busy")
    response = await client.get("/v1/bug", headers={"X-Request-ID": "bug-1"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "bug-1")
    assert response.headers["x-content-type-options"] == "nosniff"
    line = await logs.request("/v1/bug")
    assert (line["level"], line["status"], line["code"]) == ("warning", 500, "internal_error")
    traces = [line for line in map(json.loads, logs.getvalue().splitlines()) if "exception" in line]
    assert len(traces) == 1, "one trace a failure"
    assert traces[0]["request_id"] == "bug-1"


async def test_a_client_that_leaves_mid_stream_is_logged_as_such(site, logs):
    client, app, _ = site
    async with client.stream("GET", "/v1/stream") as response:
        assert await anext(response.aiter_raw()) == b"one"
    await asyncio.wait_for(app.state.left.wait(), 5)
    line = await logs.request("/v1/stream")
    assert (line["status"], line["disconnected"]) == (200, True)


async def test_an_error_after_the_answer_began_cuts_the_connection_and_is_logged(site, logs):
    client, _, _ = site
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/v1/breaks")
    assert (await logs.request("/v1/breaks"))["failed"] is True


async def test_security_headers_are_strict_and_yield_to_the_apps_own(site):
    client, _, _ = site
    api = (await client.get("/v1/me")).headers
    assert api["x-content-type-options"] == "nosniff"
    assert api["referrer-policy"] == "no-referrer"
    assert api["x-frame-options"] == "DENY"
    assert api["cache-control"] == "no-store"
    assert api["content-security-policy"].startswith("default-src 'none'")
    assert "strict-transport-security" not in api
    page = (await client.get("/page")).headers
    assert "default-src 'self'" in page["content-security-policy"]
    assert "unsafe" not in page["content-security-policy"]
    assert "cache-control" not in page
    assert page.get_list("x-frame-options") == ["SAMEORIGIN"]
    assert (await client.get("/v1/cached")).headers.get_list("cache-control") == ["max-age=5"]


async def test_hsts_is_sent_over_https_only():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="https://test") as client:
        assert "max-age=" in (await client.get("/v1/me")).headers["strict-transport-security"]


async def test_cors_answers_configured_origins_only():
    origin = {"Origin": "https://app.example"}
    preflight = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "Authorization, Idempotency-Key",
    }
    app = make_app(cors_origins=("https://app.example",))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        allowed = await client.options("/v1/echo", headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        answer = await client.get("/v1/busy", headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert exposed >= {"X-Request-ID", "Retry-After", "X-Run-ID", "X-Conversation-ID", "Content-Disposition"}
        other = await client.get("/v1/busy", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert (
            await client.options("/v1/echo", headers={**preflight, "Origin": "https://evil.example"})
        ).status_code == 400
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        assert "access-control-allow-origin" not in (await client.get("/v1/me", headers=origin)).headers


async def test_a_preflight_without_configured_origins_names_the_setting():
    preflight = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(make_app()), base_url="http://test") as client:
        refused = await client.options("/v1/echo", headers=preflight)
        assert refused.status_code == 405
        assert "PILOTHOUSE_SERVER_CORS_ORIGINS" in refused.json()["detail"]
        plain = await client.options("/v1/echo")
        assert "PILOTHOUSE_SERVER_CORS_ORIGINS" not in plain.json()["detail"]


async def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(site):
    client, _, _ = site
    body = json.dumps({"a": "x" * LIMIT})[: LIMIT - 2] + '"}'
    headers = {"content-type": "application/json"}
    assert len(body) == LIMIT
    assert (await client.post("/v1/echo", content=body, headers=headers)).status_code == 200
    response = await client.post("/v1/echo", content=body + " ", headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert response.json()["limit_bytes"] == LIMIT
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/raw", "/v1/echo"])
async def test_a_body_of_unknown_length_is_stopped_at_the_limit(site, logs, path):
    client, app, _ = site

    async def parts():
        for _ in range(4):
            yield b"x" * 1000

    response = await client.post(path, content=parts(), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert app.state.received <= LIMIT
    assert (await logs.request(path))["code"] == "too_large"


async def test_an_endless_body_is_cut_off(site, connect):
    _, app, port = site
    reader, writer = await connect(port)
    writer.write(b"POST /v1/raw HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
    answer = asyncio.create_task(reader.read())
    sent = 0
    async with asyncio.timeout(10):
        while not answer.done() and not writer.is_closing():
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            sent += 1024
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
    assert app.state.received <= LIMIT
    with suppress(ConnectionError):  # a client that never stops writing may be reset before it reads
        assert b"413" in await answer


async def test_a_client_that_writes_on_after_the_refusal_still_reads_it(site):
    _, _, port = site

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(b"POST /v1/raw HTTP/1.1\r\nHost: t\r\nContent-Length: 3000\r\n\r\n" + b"x" * 1000)
            raw.recv(1, socket.MSG_PEEK)  # the answer has come
            raw.sendall(b"x" * 1000)
            raw.sendall(b"x" * 1000)
            return b"".join(iter(lambda: raw.recv(65536), b""))

    answer = await asyncio.to_thread(talk)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")


async def test_a_declared_length_is_refused_before_the_body_is_sent(site, connect):
    _, app, port = site
    reader, writer = await connect(port)
    writer.write(b"POST /v1/raw HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert app.state.received == 0


async def test_websockets_carry_a_request_id_and_their_end_is_logged(site, logs):
    _, _, port = site
    async with connect_websocket(
        f"ws://127.0.0.1:{port}/v1/ws/echo", additional_headers={"X-Request-ID": "ws-1"}
    ) as ws:
        assert ws.response.headers["X-Request-ID"] == "ws-1"
        await ws.send('{"a": 1}')
        assert json.loads(await ws.recv()) == {"id": "ws-1", "got": {"a": 1}}
    line = await logs.request("/v1/ws/echo")
    assert (line["method"], line["status"], line["request_id"]) == ("WEBSOCKET", 101, "ws-1")
    assert "Traceback" not in logs.getvalue()


@pytest.mark.parametrize(
    ("mode", "status", "code"),
    [("refuse", 401, "unauthenticated"), ("bug-early", 500, "internal_error"), ("%00", 400, "invalid_characters")],
)
async def test_a_websocket_refused_before_it_opens_gets_a_problem(site, mode, status, code):
    _, _, port = site
    with pytest.raises(InvalidStatus) as caught:
        await connect_websocket(f"ws://127.0.0.1:{port}/v1/ws/{mode}")
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["code"] == code


@pytest.mark.parametrize(
    ("mode", "close", "code"), [("bug", 1011, "internal_error"), ("error", 1008, "conversation_busy")]
)
async def test_an_error_in_an_open_websocket_is_a_frame_and_then_the_close(site, mode, close, code):
    _, _, port = site
    async with connect_websocket(f"ws://127.0.0.1:{port}/v1/ws/{mode}") as ws:
        frame = json.loads(await ws.recv())
        assert (frame["type"], frame["error"]["code"]) == ("error", code)
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert (ws.close_code, ws.close_reason) == (close, code)


@pytest.mark.parametrize("text", ["{", '"\\u0000"', '"\\ud800"', "NaN", "1" * 5000])
async def test_a_bad_websocket_frame_is_a_problem_and_no_crash(site, text):
    _, _, port = site
    async with connect_websocket(f"ws://127.0.0.1:{port}/v1/ws/echo") as ws:
        await ws.send(text)
        frame = json.loads(await ws.recv())
        if "error" in frame:
            assert frame["error"]["code"] in {"invalid_json", "invalid_characters"}
        else:
            assert text == "1" * 5000
