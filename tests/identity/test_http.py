"""Identity over real HTTP and WebSocket connections."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiohttp
import pytest
import structlog
import uvicorn
from fastapi import FastAPI, WebSocket

from pilothouse.db import Database
from pilothouse.http.problems import install_problem_handlers
from pilothouse.idempotency.service import Idempotency
from pilothouse.identity import Identity, Principal, local_principal
from pilothouse.identity.endpoints import router
from pilothouse.identity.http import CurrentPrincipal, Scoped, accepted_subprotocol, authenticate_websocket
from pilothouse.settings import AuthSettings

ADA = Principal("acme", "ada", frozenset({"chat", "runs:read", "keys:*"}), "local")
BOB = Principal("acme", "bob", frozenset({"keys:*", "chat"}), "local")
ADMIN = Principal("acme", "root", frozenset({"*"}), "local")


def app_with(identity: Identity, database: Database) -> FastAPI:
    app = FastAPI()
    app.state.identity = identity
    app.state.idempotency = Idempotency(database)
    install_problem_handlers(app)
    app.include_router(router)

    @app.get("/runs")
    async def runs(principal: Annotated[Principal, Scoped("runs:read", "chat")]) -> dict[str, Any]:
        return {"subject": principal.subject, "log": structlog.contextvars.get_contextvars()}

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        principal = await authenticate_websocket(websocket)
        await websocket.accept(subprotocol=accepted_subprotocol(websocket))
        await websocket.send_text(principal.subject)
        await websocket.close()

    @app.websocket("/ws/dependency")
    async def ws_dependency(websocket: WebSocket, principal: CurrentPrincipal) -> None:
        await websocket.accept()
        await websocket.send_text(principal.subject)
        await websocket.close()

    return app


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="websockets-sansio"))
        started = asyncio.Event()
        startup = server.startup

        async def startup_and_tell(*args, **kwargs) -> None:
            await startup(*args, **kwargs)
            started.set()

        server.startup = startup_and_tell
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await started.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running


@pytest.fixture
async def identity(database: Database) -> AsyncIterator[Identity]:
    made = Identity(AuthSettings(), database)
    yield made
    await made.close()


@pytest.fixture
async def server(identity: Identity, database: Database) -> AsyncIterator[str]:
    async with served(app_with(identity, database)) as url:
        yield url


class Client:
    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self.session, self.url, self.token = session, url, token

    async def __call__(self, method: str, path: str, **kwargs: Any) -> tuple[int, Any, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= kwargs.pop("headers", {})
        async with self.session.request(method, self.url + path, headers=headers, **kwargs) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None, response.headers


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
async def ada(identity: Identity, server: str, session: aiohttp.ClientSession) -> Client:
    _, token = await identity.keys.create(ADA, "ada's", scopes=["chat", "runs:read", "keys:*"])
    return Client(session, server, token)


@pytest.fixture
async def bob(identity: Identity, server: str, session: aiohttp.ClientSession) -> Client:
    _, token = await identity.keys.create(BOB, "bob's", scopes=["keys:*"])
    return Client(session, server, token)


@pytest.fixture
async def nobody(server: str, session: aiohttp.ClientSession) -> Client:
    return Client(session, server, None)


async def test_me_says_who_one_is(ada: Client) -> None:
    status, body, _ = await ada("GET", "/v1/me")
    assert status == 200
    assert body == {
        "tenant": "acme",
        "subject": "ada",
        "scopes": ["chat", "keys:*", "runs:read"],
        "kind": "api_key",
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/me"), ("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/key_1"), ("GET", "/runs")],
)
async def test_every_route_is_401_without_a_token(nobody: Client, method: str, path: str) -> None:
    status, body, headers = await nobody(method, path)
    assert (status, body["code"], body["retryable"]) == (401, "unauthenticated", False)
    assert headers["WWW-Authenticate"] == 'Bearer realm="pilothouse"'
    assert headers["Content-Type"] == "application/problem+json"


async def test_a_huge_or_odd_token_is_a_plain_401(nobody: Client) -> None:
    for token in ("x" * 20_000, "ph_" + "ü" * 10, "eyJhbGciOiJub25lIn0.e30."):
        status, body, _ = await nobody("GET", "/v1/me", headers={"Authorization": f"Bearer {token}"})
        assert (status, body["code"]) == (401, "unauthenticated")
        assert token[:20] not in json.dumps(body)


async def test_a_missing_scope_is_403_and_named(ada: Client, bob: Client) -> None:
    assert (await ada("GET", "/runs"))[0] == 200
    status, body, _ = await bob("GET", "/runs")
    assert (status, body["code"], body["missing_scope"]) == (403, "missing_scope", "runs:read")


async def test_the_tenant_is_on_the_log_lines_of_the_request(ada: Client) -> None:
    _, body, _ = await ada("GET", "/runs")
    assert body["log"]["tenant"] == "acme"


async def test_a_key_is_made_used_listed_and_revoked(ada: Client) -> None:
    wanted = {"name": "nightly", "scopes": ["chat"], "expires_at": "2999-01-31T00:00:00+02:00"}
    status, made, headers = await ada("POST", "/v1/keys", json=wanted)
    assert status == 201
    assert headers["Cache-Control"] == "no-store"
    assert made["expires_at"] == "2999-01-30T22:00:00Z"
    assert made["token"].startswith(made["prefix"])
    new = Client(ada.session, ada.url, made["token"])
    assert (await new("GET", "/v1/me"))[1]["subject"] == "ada"

    _, page, _ = await ada("GET", "/v1/keys")
    assert [key["name"] for key in page["items"]] == ["nightly", "ada's"]
    assert not any("token" in key or "secret_hash" in key for key in page["items"])

    assert (await ada("DELETE", f"/v1/keys/{made['id']}"))[0] == 204
    assert (await ada("DELETE", f"/v1/keys/{made['id']}"))[0] == 204
    status, body, _ = await new("GET", "/v1/me")
    assert (status, "revoked" in body["detail"]) == (401, True)


async def test_p10_someone_elses_key_is_404_and_not_listed(ada: Client, bob: Client) -> None:
    _, mine, _ = await ada("POST", "/v1/keys", json={"name": "nightly", "scopes": ["chat"]})
    status, body, _ = await bob("DELETE", f"/v1/keys/{mine['id']}")
    assert (status, body["code"]) == (404, "not_found")
    assert [key["owner"] for key in (await bob("GET", "/v1/keys"))[1]["items"]] == ["bob"]
    assert (await bob("GET", "/v1/keys?everyone=true"))[1]["missing_scope"] == "admin"
    assert (await Client(ada.session, ada.url, mine["token"])("GET", "/v1/me"))[0] == 200


async def test_an_admin_lists_everyones(identity: Identity, ada: Client, bob: Client) -> None:
    _, token = await identity.keys.create(ADMIN, "root", scopes=["admin"])
    admin = Client(ada.session, ada.url, token)
    _, page, _ = await admin("GET", "/v1/keys?everyone=true")
    assert sorted(key["owner"] for key in page["items"]) == ["ada", "bob", "root"]
    assert (await admin("GET", "/v1/keys"))[1]["missing_scope"] == "keys:read"


async def test_pages_follow_each_other(ada: Client) -> None:
    for number in range(4):
        await ada("POST", "/v1/keys", json={"name": f"key {number}", "scopes": ["chat"]})
    seen: list[str] = []
    cursor = ""
    while True:
        _, page, _ = await ada("GET", f"/v1/keys?limit=2{cursor}")
        seen += [key["name"] for key in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(seen) == ["ada's", "key 0", "key 1", "key 2", "key 3"]
    assert (await ada("GET", "/v1/keys?cursor=junk"))[1]["code"] == "bad_cursor"
    assert (await ada("GET", "/v1/keys?limit=0"))[0] == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"name": "", "scopes": ["chat"]}, 422),
        ({"name": "a\x00b", "scopes": ["chat"]}, 422),
        ({"name": "a", "scopes": []}, 422),
        ({"name": "a", "scopes": ["Chat!"]}, 422),
        ({"name": "a", "scopes": "chat"}, 422),
        ({"name": "a", "scopes": ["chat"], "owner": "bob"}, 422),
        ({"name": "a", "scopes": ["chat"], "expires_at": "2001-01-01T00:00:00Z"}, 422),
        ({"name": "a", "scopes": ["chat"], "expires_at": "2999-01-01T00:00:00"}, 422),
        ({"name": "a", "scopes": ["admin"]}, 403),
        ({"name": "a", "scopes": ["*"]}, 403),
    ],
)
async def test_a_wrong_request_for_a_key_is_refused_with_a_problem(ada: Client, body: Any, status: int) -> None:
    given, problem, _ = await ada("POST", "/v1/keys", json=body)
    assert (given, problem["status"]) == (status, status)
    assert problem["detail"]


async def test_a_lone_surrogate_in_a_name_is_refused(ada: Client) -> None:
    body = b'{"name": "\\ud800", "scopes": ["chat"]}'
    assert (await ada("POST", "/v1/keys", data=body, headers={"Content-Type": "application/json"}))[0] == 422


# --- WebSockets


async def first_text(session: aiohttp.ClientSession, url: str, **kwargs: Any) -> tuple[str | None, str]:
    async with session.ws_connect(url, **kwargs) as ws:
        return ws.protocol, await ws.receive_str()


async def test_a_websocket_takes_the_header_or_the_browsers_subprotocol(ada: Client) -> None:
    header = {"Authorization": f"Bearer {ada.token}"}
    assert await first_text(ada.session, ada.url + "/ws", headers=header) == (None, "ada")
    protocols = ("pilothouse", f"bearer.{ada.token}")
    assert await first_text(ada.session, ada.url + "/ws", protocols=protocols) == ("pilothouse", "ada")
    assert await first_text(ada.session, ada.url + "/ws/dependency", headers=header) == (None, "ada")


@pytest.mark.parametrize("protocols", [(), ("pilothouse",), ("pilothouse", "bearer.ph_wrong"), ("bearer.",)])
async def test_a_websocket_without_a_good_token_is_never_accepted(nobody: Client, protocols: tuple[str, ...]) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await first_text(nobody.session, nobody.url + "/ws", protocols=protocols)
    assert caught.value.status == 401


# --- local development mode


@pytest.fixture
async def local(database: Database, session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with served(app_with(Identity(AuthSettings(), database, local=local_principal()), database)) as url:
        yield Client(session, url, None)


async def test_local_mode_needs_no_token(local: Client) -> None:
    assert (await local("GET", "/v1/me"))[1]["kind"] == "local"
    assert (await first_text(local.session, local.url + "/ws"))[1] == "local"


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://127.0.0.1:9", "http://[::1]:3", "http://app.localhost"]
)
async def test_local_mode_serves_pages_of_this_machine(local: Client, origin: str) -> None:
    assert (await local("GET", "/v1/me", headers={"Origin": origin}))[0] == 200
    assert (await first_text(local.session, local.url + "/ws", headers={"Origin": origin}))[1] == "local"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://[junk"},
        {"Host": "rebound.evil.example"},
        {"Host": "rebound.evil.example:8420", "Origin": "http://rebound.evil.example:8420"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.0.0.7:8420"},
    ],
)
async def test_local_mode_refuses_pages_of_other_sites(local: Client, headers: dict[str, str]) -> None:
    status, body, _ = await local("GET", "/v1/me", headers=headers)
    assert (status, body["code"]) == (403, "local_mode")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await first_text(local.session, local.url + "/ws", headers=headers)
    assert caught.value.status == 403


async def test_with_a_token_other_sites_may_call(ada: Client) -> None:
    assert (await ada("GET", "/v1/me", headers={"Origin": "https://app.example"}))[0] == 200


# --- OpenAPI


async def test_the_openapi_document_names_the_scheme_and_has_examples(nobody: Client) -> None:
    _, document, _ = await nobody("GET", "/openapi.json")
    scheme = document["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "bearer" in operation["security"][0], (method, path)
            if path.startswith("/v1"):
                assert "application/problem+json" in operation["responses"]["401"]["content"]
    for name in ("Me", "NewKey", "Key"):
        assert document["components"]["schemas"][name]["examples"]
