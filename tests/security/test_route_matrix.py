"""Every route with every kind of caller: the exact status each one gets.

The routes come from the application itself; a new one fails these tests until it has its row in `ROUTES`.
"""

import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from fastapi.routing import iter_route_contexts
from pydantic_ai import Agent
from sqlalchemy import update
from starlette.routing import WebSocketRoute
from tests.support.server import AUDIENCE, ISSUER, SECRET, Person, RunningServer, running

from pilothouse.app import Pilothouse
from pilothouse.audit.http import AUDITED, NOT_AUDITED
from pilothouse.identity.principal import SCOPES, USER_SCOPES, Principal
from pilothouse.identity.tables import api_keys
from pilothouse.settings import Settings
from pilothouse.testing.provider import Rule, Script, ToolCall, Turn, When
from pilothouse.tools import tool


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a route answers.

    Attributes:
        scopes: those a caller needs, all of them; None: the route needs no token.
        instead: a scope that opens it as well as `scopes` do.
        body: a good JSON body; ids of the owner's things stand in it as in the path, `{run_id}`.
        own: status for the owner of what it names, with exactly `scopes`.
        stranger: status for another subject of the owner's tenant, and for the owner's namesake of another tenant, each
            with every scope there is.
    """

    scopes: tuple[str, ...] | None
    instead: str | None = None
    body: Any = None
    own: int = 200
    stranger: int = 404


ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "/health/live"): Route(scopes=None, stranger=200),
    ("GET", "/health/ready"): Route(scopes=None, stranger=200),
    ("GET", "/v1/me"): Route(scopes=(), stranger=200),
    ("POST", "/v1/chat"): Route(scopes=("chat",), body={"message": "hi", "conversation_id": "{conversation_id}"}),
    ("POST", "/v1/chat/stream"): Route(
        scopes=("chat",), body={"message": "hi", "conversation_id": "{conversation_id}"}
    ),
    ("GET", "/v1/runs"): Route(scopes=("runs:read",), stranger=200),
    ("GET", "/v1/runs/{run_id}"): Route(scopes=("runs:read",)),
    ("GET", "/v1/runs/{run_id}/events"): Route(scopes=("runs:read",)),
    ("POST", "/v1/runs/{run_id}/cancel"): Route(scopes=("runs:write",)),
    ("POST", "/v1/runs/{run_id}/release"): Route(scopes=("admin",), own=409),
    ("POST", "/v1/runs/{run_id}/fork"): Route(scopes=("chat", "runs:read"), body={}, own=202),
    ("POST", "/v1/runs/{run_id}/input"): Route(
        scopes=("runs:write",), instead="approvals:decide", body={"call_id": "{call_id}", "approve": True}, own=202
    ),
    ("GET", "/v1/runs/{run_id}/input"): Route(scopes=("runs:read",), instead="approvals:decide"),
    ("GET", "/v1/conversations"): Route(scopes=("conversations:read",), stranger=200),
    ("POST", "/v1/conversations"): Route(scopes=("conversations:write",), body={}, own=201, stranger=201),
    ("GET", "/v1/conversations/{conversation_id}"): Route(scopes=("conversations:read",)),
    ("PATCH", "/v1/conversations/{conversation_id}"): Route(scopes=("conversations:write",), body={"title": "t"}),
    ("GET", "/v1/conversations/{conversation_id}/messages"): Route(scopes=("conversations:read",)),
    ("PUT", "/v1/conversations/{conversation_id}/messages/{key}/pin"): Route(
        scopes=("conversations:write",), body={"pinned": True}, own=204
    ),
    ("GET", "/v1/conversations/{conversation_id}/export"): Route(scopes=("conversations:read",)),
    ("GET", "/v1/conversations/{conversation_id}/attachments/{attachment_id}"): Route(scopes=("conversations:read",)),
    ("DELETE", "/v1/conversations/{conversation_id}"): Route(scopes=("conversations:write",), own=204),
    ("GET", "/v1/agents"): Route(scopes=("agents:read",), stranger=200),
    ("GET", "/v1/agents/{name}"): Route(scopes=("agents:read",), stranger=200),
    ("GET", "/v1/tools"): Route(scopes=("agents:read",), stranger=200),
    ("POST", "/v1/tools/{name}"): Route(scopes=("tools:call",), body={"arguments": {"count": 1}}, stranger=200),
    ("GET", "/v1/keys"): Route(scopes=("keys:read",), stranger=200),
    ("POST", "/v1/keys"): Route(
        scopes=("keys:write",), body={"name": "n", "scopes": ["keys:write"]}, own=201, stranger=201
    ),
    ("DELETE", "/v1/keys/{key_id}"): Route(scopes=("keys:write",), instead="admin", own=204),
    ("GET", "/v1/audit"): Route(scopes=("audit:read",), stranger=200),
}
"""Each documented route. Those of a method DELETE are tried last."""

SOCKETS = {"/v1/chat/ws/{conversation_id}": ("chat",)}
"""Each WebSocket and the scopes that open it."""

PAGES = {"/openapi.json", "/docs", "/docs/docs.js", "/docs/docs.css", "/console", "/console/"}
PAGES |= {"/console/assets/{wanted}/{path:path}"}
"""Files and pages, which anybody may load and which hold nothing of anybody."""

SCRIPT = Script(
    rules=[Rule(when=When(user_contains="refund"), turn=Turn(tool_calls=[ToolCall(name="refund", arguments={})]))],
    turns=[Turn(text="Hello.")],
)
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "identity.md"


@tool(effect="pure")
async def measure(count: int) -> int:
    """Count."""
    return count


@tool(effect="once", approval=True)
async def refund() -> str:
    """Give money back."""
    return "given back"


def add_agent(app: Pilothouse) -> None:
    app.agent(Agent(name="measure"), tools=[measure, refund])  # named as its tool is: one `name` for both routes


def documented() -> dict[tuple[str, str], Any]:
    app = Pilothouse(Settings.model_validate({"server": {"console": True}}), environ={})
    paths = app.fastapi.openapi()["paths"]
    return {(method.upper(), path): operation for path, item in paths.items() for method, operation in item.items()}


@dataclass
class Stage:
    """A server, what ada of acme owns on it, and callers of every kind."""

    server: RunningServer
    ids: dict[str, str]
    waiting: dict[str, str]
    people: list[Person]

    def person(self, token: str | None) -> Person:
        person = Person(self.server.url, token)
        self.people.append(person)
        return person

    def with_scopes(self, *scopes: str, subject: str = "ada", tenant: str = "acme") -> Person:
        return self.person(self.server.person(subject, tenant=tenant, scope=" ".join(scopes) or "none").token)

    async def ask(self, person: Person, method: str, path: str, route: Route) -> tuple[int, str | None]:
        """Status and code that a caller gets."""
        ids = {**self.ids, **(self.waiting if path.endswith("/input") else {})}
        body = route.body
        if isinstance(body, dict):
            body = {name: value.format(**ids) if isinstance(value, str) else value for name, value in body.items()}
        headers = {"Accept": "application/json"} if path.endswith("/events") else {}
        response = await person.http.request(method, path.format(**ids), json=body, headers=headers)
        code = response.json().get("code") if response.status_code >= 400 else None
        return response.status_code, code


@asynccontextmanager
async def stage(database_url: str) -> AsyncIterator[Stage]:
    async with running(database_url, SCRIPT, setup=add_agent) as server:
        file = {"media_type": "text/plain", "data": "aGVsbG8=", "name": "hello.txt"}
        done = await server.chat("hi", attachments=[file])
        messages = await server.get(f"/v1/conversations/{done['conversation_id']}/messages")
        waiting = (await server.send("refund please")).json()
        steps = (await server.run(waiting["run_id"]))["steps"]
        key = (await server.post("/v1/keys", {"name": "mine", "scopes": ["chat"]})).json()
        made = Stage(
            server,
            ids={
                "run_id": done["run_id"],
                "conversation_id": done["conversation_id"],
                "attachment_id": messages.json()["items"][0]["attachments"][0]["id"],
                "key": "1.1",
                "key_id": key["id"],
                "name": "measure",
            },
            waiting={"run_id": waiting["run_id"], "call_id": next(s["call_id"] for s in steps if s["kind"] == "tool")},
            people=[],
        )
        try:
            yield made
        finally:
            for person in made.people:
                await person.close()


async def useless_tokens(server: RunningServer) -> dict[str, str | None]:
    """Credentials that open nothing, each for its own reason."""
    ada = Principal("acme", "ada", frozenset({"*"}), "local")
    keys = server.services.identity.keys
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    expired, expired_token = await keys.create(ada, "expired", scopes=["*"], expires_at=tomorrow)
    revoked, revoked_token = await keys.create(ada, "revoked", scopes=["*"])

    def expire(connection: Any) -> None:
        connection.execute(update(api_keys).where(api_keys.c.id == expired.id).values(expires_at=1))

    await server.database.write(expire)
    await keys.revoke(ada, revoked.id)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "scope": "*"}

    def signed(secret: str, **changes: Any) -> str:
        return jwt.encode({**claims, "exp": int(time.time()) + 3600, **changes}, secret, algorithm="HS256")

    return {
        "nobody": None,
        "garbage": "garbage",
        "an invented key": f"ph_00000000_{'A' * 43}",
        "an expired key": expired_token,
        "a revoked key": revoked_token,
        "an expired JWT": signed(SECRET, exp=int(time.time()) - 3600),
        "a JWT of another secret": signed(SECRET[::-1]),
        "a JWT for another audience": signed(SECRET, aud="others"),
        "a JWT without signature": jwt.encode({**claims, "exp": int(time.time()) + 3600}, None, algorithm="none"),
    }


def test_every_documented_route_has_its_row():
    found = documented().keys()
    missing = sorted(found - ROUTES.keys())
    assert not missing, (
        f"{missing} are new: add a Route to ROUTES in {Path(__file__).name} that says which scopes open it and what "
        "the owner and strangers get, and its line in the table of scopes in docs/guide/identity.md"
    )
    assert not ROUTES.keys() - found, "rows of routes that are gone"


def test_every_other_route_is_a_page_or_a_socket_with_its_row():
    app = Pilothouse(Settings.model_validate({"server": {"console": True}}), environ={})
    contexts = list(iter_route_contexts(app.fastapi.routes))
    sockets = {context.path for context in contexts if isinstance(context.original_route, WebSocketRoute)}
    pages = {context.path for context in contexts} - sockets - {path for _, path in documented()}
    assert sockets == SOCKETS.keys(), "a new WebSocket needs its row in SOCKETS"
    assert pages == PAGES, "a route outside of the OpenAPI document: is it for anybody? Then name it in PAGES."


def test_every_route_that_changes_something_is_audited_or_says_why_not():
    changing = {route for route in documented() if route[0] not in {"GET", "HEAD"}}
    missing = sorted(changing - AUDITED.keys() - NOT_AUDITED.keys())
    assert not missing, f"{missing} change something: name them in AUDITED or NOT_AUDITED of pilothouse/audit/http.py"
    assert AUDITED.keys() | NOT_AUDITED.keys() == changing, "routes that are gone"
    assert not AUDITED.keys() & NOT_AUDITED.keys()


async def test_without_a_good_credential_every_route_is_401(database_url):
    async with stage(database_url) as made:
        for name, token in (await useless_tokens(made.server)).items():
            person = made.person(token)
            for (method, path), route in ROUTES.items():
                wanted = (200, None) if route.scopes is None else (401, "unauthenticated")
                assert await made.ask(person, method, path, route) == wanted, (name, method, path)


async def test_without_the_scope_every_route_is_403_whatever_other_scopes_one_has(database_url):
    async with stage(database_url) as made:
        others = made.with_scopes("orders:write")
        for (method, path), route in ROUTES.items():
            for scope in route.scopes or ():
                all_but_one = made.with_scopes(*(SCOPES.keys() - {scope, route.instead}))
                for person in (all_but_one, others):
                    assert await made.ask(person, method, path, route) == (403, "missing_scope"), (method, path, scope)


async def test_what_is_anothers_is_404_with_every_scope_but_admin(database_url):
    async with stage(database_url) as made:
        before = await made.server.messages(made.ids["conversation_id"])
        scopes = SCOPES.keys() - {"admin"}
        for subject, tenant in (("bob", "acme"), ("ada", "other"), ("bob", "other")):
            person = made.with_scopes(*scopes, subject=subject, tenant=tenant)
            for (method, path), route in ROUTES.items():
                if scopes.issuperset(route.scopes or ()):
                    status, _ = await made.ask(person, method, path, route)
                    assert status == route.stranger, (subject, tenant, method, path)
        assert await made.server.messages(made.ids["conversation_id"]) == before
        assert (await made.server.run(made.waiting["run_id"]))["state"] == "awaiting_input"


async def test_an_admin_reaches_keys_and_parked_runs_of_the_own_tenant_only(database_url):
    async with stage(database_url) as made:
        release, revoke = ("POST", "/v1/runs/{run_id}/release"), ("DELETE", "/v1/keys/{key_id}")
        for subject, tenant, wanted in (("eve", "other", 404), ("olga", "acme", 404)):
            admin = made.with_scopes("admin", subject=subject, tenant=tenant)
            assert (await made.ask(admin, *release, ROUTES[release]))[0] == wanted  # it is not parked
        eve = made.with_scopes("admin", "keys:write", subject="eve", tenant="other")
        bob = made.with_scopes("keys:write", subject="bob")
        olga = made.with_scopes("admin", subject="olga")
        assert (await made.ask(eve, *revoke, ROUTES[revoke]))[0] == 404
        assert (await made.ask(bob, *revoke, ROUTES[revoke]))[0] == 404
        assert (await made.ask(olga, *revoke, ROUTES[revoke]))[0] == 204


async def test_the_owner_needs_exactly_the_scopes_that_are_named(database_url):
    async with stage(database_url) as made:
        for (method, path), route in sorted(ROUTES.items(), key=lambda item: item[0][0] == "DELETE"):
            person = made.with_scopes(*(route.scopes or ()))
            status, code = await made.ask(person, method, path, route)
            assert status == route.own, (method, path, code)


async def test_a_socket_opens_for_its_owner_with_its_scope_only(database_url):
    async with stage(database_url) as made:
        tries: list[tuple[str, Person, int]] = [
            (name, made.person(token), 401) for name, token in (await useless_tokens(made.server)).items()
        ]
        for path, scopes in SOCKETS.items():
            tries += [
                ("no scope", made.with_scopes(*(SCOPES.keys() - set(scopes))), 403),
                ("another subject", made.with_scopes("*", subject="bob"), 404),
                ("another tenant", made.with_scopes("*", tenant="other"), 404),
            ]
            for name, person, wanted in tries:
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await person.session.ws_connect(path.format(**made.ids))
                assert refused.value.status == wanted, name
            owner = made.with_scopes(*scopes)
            async with owner.session.ws_connect(path.format(**made.ids)) as socket:
                for frame, code in (
                    ({"type": "resume", "run_id": made.ids["run_id"]}, "missing_scope"),
                    ({"type": "cancel", "run_id": made.ids["run_id"]}, "missing_scope"),
                ):
                    await socket.send_json(frame)
                    assert (await socket.receive_json())["error"]["code"] == code
            bob = made.with_scopes("*", subject="bob")
            async with bob.session.ws_connect(path.format(conversation_id="new")) as socket:
                for frame, code in (
                    ({"type": "resume", "run_id": made.ids["run_id"]}, "run_not_found"),
                    ({"type": "cancel", "run_id": made.ids["run_id"]}, "run_not_found"),
                    (
                        {"type": "message", "message": "hi", "conversation_id": made.ids["conversation_id"]},
                        "conversation_not_found",
                    ),
                ):
                    await socket.send_json(frame)
                    assert (await socket.receive_json())["error"]["code"] == code


def test_the_guide_names_every_scope_what_it_opens_and_who_has_it():
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \| (yes|no) \|$", GUIDE.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == list(SCOPES), "docs/guide/identity.md: the table of scopes"
    usual = Principal("t", "s", USER_SCOPES, "jwt")
    for name, _, opens, default in rows:
        told = {tuple(item.split(" ", 1)) for item in re.findall(r"`([A-Z]+ /[^`]+)`", opens)}
        open_routes = {
            (method, path)
            for (method, path), route in ROUTES.items()
            if name in (route.scopes or ()) or name == route.instead
        }
        open_routes |= {("WS", path) for path, scopes in SOCKETS.items() if name in scopes}
        assert told == open_routes, f"docs/guide/identity.md: what {name} opens"
        assert (default == "yes") == usual.has(name), f"docs/guide/identity.md: whether {name} is a usual one"
