"""`Pilothouse(local=True)` behind any ASGI server: who calls without a token is on this machine, or is refused."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
from pydantic_ai import Agent
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.support.raw_http import RawClient
from tests.support.server import settings_for

from pilothouse.app import Pilothouse
from pilothouse.errors import Forbidden
from pilothouse.identity import local_principal
from pilothouse.identity.local_mode import require_local
from pilothouse.testing.provider import Script, ScriptedProvider

HERE = ("127.0.0.1", 50000)
FOREIGN = [
    ("192.0.2.7", 50000),
    ("10.0.0.7", 50000),
    ("172.17.0.1", 50000),
    ("2001:db8::7", 50000),
    ("::ffff:10.0.0.7", 1),
]
FORWARDING = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Prefix",
    "X-Real-IP",
    "CF-Connecting-IP",
    "CF-Ray",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "Fly-Client-IP",
    "Via",
    "CDN-Loop",
    "Client-IP",
    "Fastly-Client-IP",
    "Forwarded-For",
    "Proxy-Client-IP",
    "X-AppEngine-User-IP",
    "X-Azure-ClientIP",
    "X-Envoy-External-Address",
    "X-Forwarded",
    "X-Host",
    "X-Original-Host",
    "X-ProxyUser-IP",
    "X-Remote-Addr",
    "X-Remote-IP",
]


@pytest.fixture
async def app(sqlite_url: str) -> AsyncIterator[Pilothouse]:
    async with ScriptedProvider(Script(turns=["Hello"])) as provider:
        made = Pilothouse(settings_for(sqlite_url, provider), local=True, environ={})
        made.agent(Agent(name="helper"))
        async with made.running():
            yield made


class Asgi:
    """Any ASGI server: its scopes, as the specification has them."""

    def __init__(self, app: ASGIApp, client: object = HERE, server: object = ("127.0.0.1", 8420)) -> None:
        self._app = app
        self._client = client
        self._server = server

    async def get(self, *, host: str | None = "localhost:8420", **headers: str) -> tuple[int, str]:
        """Status and body of GET /v1/me."""
        given = [] if host is None else [(b"host", host.encode())]
        given += [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
        status, body = 0, b""

        async def send(message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")

        await self._app(self._scope("http", given), _no_body, send)
        return status, body.decode()

    async def websocket(self, *, host: str = "localhost:8420", **headers: str) -> int:
        """101, or the status of the refusal."""
        given = [(b"host", host.encode())]
        given += [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
        coming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
        status = 0

        async def receive():
            return coming.pop(0) if coming else {"type": "websocket.disconnect", "code": 1000}

        async def send(message) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
            status = message.get("status", status)

        await self._app(self._scope("websocket", given), receive, send)
        return status

    def _scope(self, kind: str, headers: list[tuple[bytes, bytes]]) -> Scope:
        path = "/v1/me" if kind == "http" else "/v1/chat/ws/new"
        scope = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": self._client,
            "server": self._server,
            "state": {},
        }
        if kind == "http":
            return {**scope, "method": "GET"}
        return {**scope, "subprotocols": [], "extensions": {"websocket.http.response": {}}}


async def _no_body():
    return {"type": "http.request", "body": b"", "more_body": False}


def refused(answer: tuple[int, str]) -> bool:
    status, body = answer
    return status == 403 and '"local_mode"' in body


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8420", "127.0.0.1:8420", "[::1]:8420", "LOCALHOST", "app.localhost"]
)
async def test_programs_of_this_machine_are_let_in(app: Pilothouse, host: str) -> None:
    for client in (HERE, ("::1", 50000), ("127.0.0.5", 1), ("::ffff:127.0.0.1", 1)):
        assert (await Asgi(app, client).get(host=host))[0] == 200
    assert await Asgi(app).websocket(host=host) == 101


async def test_a_unix_socket_is_this_machine(app: Pilothouse) -> None:
    assert (await Asgi(app, None, ("/run/pilothouse.sock", None)).get())[0] == 200


@pytest.mark.parametrize("client", [*FOREIGN, None, ("", 0), ("testclient", 50000)])
async def test_another_machine_is_refused_whatever_host_it_names(app: Pilothouse, client: object) -> None:
    answer = await Asgi(app, client).get()
    assert refused(answer)
    assert "send a token" in answer[1]
    assert await Asgi(app, client).websocket() == 403


@pytest.mark.parametrize("name", FORWARDING)
async def test_a_request_that_came_through_a_proxy_is_refused(app: Pilothouse, name: str) -> None:
    answer = await Asgi(app).get(**{name: "127.0.0.1"})
    assert refused(answer)
    assert name.lower() in answer[1]
    assert await Asgi(app).websocket(**{name: "127.0.0.1"}) == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.7:8420",
        "intranet",
        "testserver",
        "[::2]:8420",
        "0.0.0.0:8420",
    ],
)
async def test_another_name_is_refused(app: Pilothouse, host: str) -> None:
    assert refused(await Asgi(app).get(host=host))
    assert await Asgi(app).websocket(host=host) == 403


@pytest.mark.parametrize(
    "host", ["evil.example@localhost", "localhost/evil", "localhost:99999999", "", "local host", "a,b"]
)
async def test_a_host_that_is_none_is_refused(app: Pilothouse, host: str) -> None:
    assert (await Asgi(app).get(host=host))[0] in {400, 403}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "evil://localhost"},
        {"Origin": "chrome-extension://localhost"},
        {"Origin": "http://evil.example@localhost"},
        {"Origin": "http://intranet"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://localhost:8420"},
    ],
    ids=str,
)
async def test_a_page_of_another_site_is_refused_also_for_get(app: Pilothouse, headers: dict[str, str]) -> None:
    assert refused(await Asgi(app).get(**headers))
    assert await Asgi(app).websocket(**headers) == 403


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (b"host", [b"localhost", b"evil.example"]),
        (b"host", [b"evil.example", b"localhost"]),
        (b"origin", [b"http://localhost", b"https://evil.example"]),
        (b"sec-fetch-site", [b"same-origin", b"cross-site"]),
    ],
)
def test_each_of_several_headers_of_a_name_counts_against_a_request(name: bytes, values: list[bytes]) -> None:
    """Also under a server that lets two Hosts through."""
    headers = [(name, value) for value in values]
    if name != b"host":
        headers.append((b"host", b"localhost"))
    with pytest.raises(Forbidden) as caught:
        require_local({"client": HERE, "server": ("127.0.0.1", 8420), "headers": headers})
    assert caught.value.code == "local_mode"


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
async def test_a_page_of_this_machine_is_let_in(app: Pilothouse, site: str) -> None:
    assert (await Asgi(app).get(Sec_Fetch_Site=site, Origin="http://localhost:5173"))[0] == 200
    assert (await Asgi(app).get(Sec_Fetch_Site=site))[0] == 200


async def test_who_has_a_token_may_call_from_anywhere(app: Pilothouse) -> None:
    _, token = await app.services.identity.keys.create(local_principal(), "mine", scopes=["chat"])
    answer = await Asgi(app, FOREIGN[0]).get(
        host="agents.example", Authorization=f"Bearer {token}", X_Forwarded_For="192.0.2.7"
    )
    assert answer[0] == 200


# --- uvicorn as a developer starts it


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def served(app: ASGIApp, *, path: Path | None = None, proxy_headers: bool = True) -> AsyncIterator[int]:
    """`uvicorn main:app`, on a free port or at `path`."""
    with socket.socket(socket.AF_INET if path is None else socket.AF_UNIX) as listener:
        listener.bind(("127.0.0.1", 0) if path is None else str(path))
        server = _Uvicorn(
            uvicorn.Config(app, lifespan="off", log_config=None, proxy_headers=proxy_headers, ws="websockets-sansio")
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        yield 0 if path else listener.getsockname()[1]
        server.should_exit = True
        await task


async def test_under_plain_uvicorn_a_proxy_of_this_machine_lets_nobody_in(app: Pilothouse) -> None:
    async with served(app) as port, httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/v1/me")).status_code == 200
        for headers in ({"X-Forwarded-For": "192.0.2.7"}, {"X-Forwarded-For": "127.0.0.1", "Host": "localhost"}):
            response = await client.get("/v1/me", headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "local_mode")


async def test_under_plain_uvicorn_a_peer_that_is_not_here_is_refused_though_it_says_localhost(app: Pilothouse) -> None:
    async def from_afar(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": ("192.0.2.7", 50000)}, receive, send)

    async with served(from_afar, proxy_headers=False) as port:
        client = await RawClient.connect(port)
        answer = await client.ask(b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.close()
    assert (answer.status, answer.code) == (403, "local_mode")


async def test_under_uvicorn_on_a_unix_socket_this_machines_programs_are_let_in(
    app: Pilothouse, tmp_path: Path
) -> None:
    path = tmp_path / "pilothouse.sock"
    async with served(app, path=path):
        client = RawClient(*await asyncio.open_unix_connection(str(path)))
        answer = await client.ask(b"GET /v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.close()
    assert answer.status == 200


# --- the Host header, in every mode


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: localhost\r\nHost: localhost\r\n",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host:\r\n",
        b"Host: a b\r\n",
        b"Host: http://localhost\r\n",
        b"Host: user@localhost\r\n",
        b"Host: localhost:port\r\n",
        b"Host: \xc3\xa9.example\r\n",
        b"Host: [::1\r\n",
        b"Host: " + b"a" * 300 + b"\r\n",
    ],
    ids=repr,
)
async def test_a_request_without_one_good_host_is_400_under_any_server(app: Pilothouse, hosts: bytes) -> None:
    async with served(app) as port:
        client = await RawClient.connect(port)
        answer = await client.ask(b"GET /health/live HTTP/1.1\r\n" + hosts + b"\r\n")
        client.close()
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.code == "bad_host"


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host: a b\r\n"], ids=repr)
async def test_a_websocket_without_one_good_host_is_400_under_any_server(app: Pilothouse, hosts: bytes) -> None:
    handshake = (
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with served(app) as port:
        client = await RawClient.connect(port)
        answer = await client.ask(b"GET /v1/chat/ws/new HTTP/1.1\r\n" + hosts + handshake)
        client.close()
    assert answer.status == 400


async def test_http_1_0_needs_no_host(app: Pilothouse) -> None:
    async with served(app) as port:
        client = await RawClient.connect(port)
        answer = await client.ask(b"GET /health/live HTTP/1.0\r\n\r\n")
        client.close()
    assert answer.status == 200
