"""A Pilothouse application on a real socket in the test's own loop, its model provider, and clients of several people.

async with running(database_url, Script(turns=["Hello"]), agents=[Agent(name="helper")]) as server:
    answer = await server.chat("Hi")
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx2
import jwt
from pydantic_ai import Agent

from pilothouse.app import Pilothouse
from pilothouse.db import Database
from pilothouse.kit.jsons import loads
from pilothouse.server import Server, ServerConfig
from pilothouse.services import Services
from pilothouse.settings import Settings
from pilothouse.testing.provider import Script, ScriptedProvider

SECRET = "a-shared-secret-of-thirty-two-bytes-or-more"
ISSUER, AUDIENCE = "https://issuer.example", "pilothouse"
ALL_SCOPES = "chat runs:* conversations:* agents:read tools:call keys:*"


def token_for(subject: str, *, tenant: str = "acme", scope: str = ALL_SCOPES, seconds: float = 3600) -> str:
    """A JWT the servers made here accept, for so many seconds."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": tenant, "scope": scope}
    return jwt.encode({**claims, "exp": int(time.time() + seconds)}, SECRET, algorithm="HS256")


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    type: str
    data: dict[str, Any]

    @property
    def place(self) -> tuple[int, int]:
        attempt, _, number = self.id.partition("-")
        return int(attempt), int(number)


@dataclass
class Stream:
    """An open event stream: `async for event in stream`."""

    response: aiohttp.ClientResponse
    events: list[Event] = field(default_factory=list[Event])
    comments: int = 0

    @property
    def run_id(self) -> str:
        return self.response.headers["X-Run-ID"]

    @property
    def conversation_id(self) -> str:
        return self.response.headers["X-Conversation-ID"]

    async def __aiter__(self) -> AsyncIterator[Event]:
        fields: dict[str, str] = {}
        async for raw in self.response.content:
            line = raw.decode().rstrip("\n")
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                event = Event(fields.get("id", ""), fields["event"], loads(fields["data"]))
                fields = {}
                self.events.append(event)
                yield event

    async def until(self, kind: str) -> Event:
        """The next event of this type."""
        async for event in self:
            if event.type == kind:
                return event
        raise AssertionError(f"the stream ended without {kind}: {[event.type for event in self.events]}")

    async def rest(self) -> list[Event]:
        """All events to the end of the stream."""
        async for _ in self:
            pass
        return self.events

    def leave(self) -> None:
        """Break the connection off."""
        self.response.close()


class Person:
    """Somebody's calls, with their token."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url
        self.token = token
        self.http = httpx2.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=60,
            trust_env=False,
            limits=httpx2.Limits(max_connections=300, max_keepalive_connections=50),
        )
        self.session = aiohttp.ClientSession(base_url=url, headers=headers, timeout=aiohttp.ClientTimeout(total=60))

    async def close(self) -> None:
        await self.http.aclose()
        await self.session.close()

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return await self.http.post(path, json=body, headers={n.replace("_", "-"): v for n, v in headers.items()})

    async def get(self, path: str, **params: Any) -> httpx2.Response:
        return await self.http.get(path, params=params)

    async def send(self, message: str, *, key: str | None = None, **body: Any) -> httpx2.Response:
        """`POST /v1/chat`, whatever comes."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.http.post("/v1/chat", json={"message": message, **body}, headers=headers)

    async def chat(self, message: str, **body: Any) -> dict[str, Any]:
        """`POST /v1/chat`, which must succeed."""
        response = await self.send(message, **body)
        assert response.status_code == 200, response.text
        return response.json()

    async def run(self, run_id: str) -> dict[str, Any]:
        response = await self.get(f"/v1/runs/{run_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def cancel(self, run_id: str) -> dict[str, Any]:
        response = await self.post(f"/v1/runs/{run_id}/cancel")
        assert response.status_code == 200, response.text
        return response.json()

    async def messages(self, conversation_id: str) -> list[dict[str, Any]]:
        response = await self.get(f"/v1/conversations/{conversation_id}/messages", limit=100)
        assert response.status_code == 200, response.text
        return response.json()["items"]

    @asynccontextmanager
    async def stream(self, message: str, *, key: str | None = None, **body: Any) -> AsyncIterator[Stream]:
        """`POST /v1/chat/stream`."""
        headers = {"Idempotency-Key": key} if key is not None else {}
        request = self.session.post("/v1/chat/stream", json={"message": message, **body}, headers=headers)
        async with request as response:
            assert response.status == 200, await response.text()
            yield Stream(response)

    @asynccontextmanager
    async def follow(self, run_id: str, after: str | None = None) -> AsyncIterator[Stream]:
        """`GET /v1/runs/{id}/events`."""
        headers = {"Last-Event-ID": after} if after else {}
        async with self.session.get(f"/v1/runs/{run_id}/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            yield Stream(response)

    async def events(self, run_id: str, after: str | None = None) -> list[Event]:
        """All events of a run, to its last one."""
        async with self.follow(run_id, after) as stream:
            return await stream.rest()


class RunningServer(Person):
    """The server, and what its usual caller (`ada` of tenant `acme`) does."""

    def __init__(self, app: Pilothouse, url: str, provider: ScriptedProvider) -> None:
        super().__init__(url, token_for("ada"))
        self.app = app
        self.provider = provider
        self._people: list[Person] = []

    @property
    def services(self) -> Services:
        return self.app.services

    @property
    def database(self) -> Database:
        return self.app.services.database

    def person(self, subject: str, *, tenant: str = "acme", scope: str = ALL_SCOPES) -> Person:
        """Somebody else."""
        person = Person(self.url, token_for(subject, tenant=tenant, scope=scope))
        self._people.append(person)
        return person

    def bearer(self, token: str) -> Person:
        """Whoever has this token."""
        person = Person(self.url, token)
        self._people.append(person)
        return person

    def nobody(self) -> Person:
        """Somebody without a token."""
        person = Person(self.url, None)
        self._people.append(person)
        return person

    async def close(self) -> None:
        for person in self._people:
            await person.close()
        await super().close()


class _Server(Server):
    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def settings_for(database_url: str, provider: ScriptedProvider, **groups: dict[str, Any]) -> Settings:
    """Settings of a server under test: quick retries, no start-up check, JWTs."""
    defaults: dict[str, dict[str, Any]] = {
        "database": {"url": database_url},
        "openai": {"api_key": "sk-client-key-1234", "base_url": provider.openai_base_url},
        "anthropic": {"api_key": "sk-client-key-1234", "base_url": provider.anthropic_base_url},
        "models": {"default": "openai:scripted", "check": False, "backoff_seconds": 0.001, "backoff_max_seconds": 0.01},
        "auth": {"jwt_secret": SECRET, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE},
        "runs": {"delta_flush_seconds": 0.02},
        "log": {"level": "warning", "format": "json"},
        "server": {"console": False},
    }
    merged = {name: {**defaults.get(name, {}), **groups.get(name, {})} for name in {*defaults, *groups}}
    return Settings.model_validate(merged)


Setup = Callable[[Pilothouse], Any]


@asynccontextmanager
async def serving(
    database_url: str,
    provider: ScriptedProvider,
    *,
    agents: Sequence[Agent[Any, Any]] = (),
    setup: Setup | None = None,
    **groups: dict[str, Any],
) -> AsyncIterator[RunningServer]:
    """A server until the end of the block. `setup(app)` adds agents that need more than themselves."""
    app = Pilothouse(settings_for(database_url, provider, **groups), environ={})
    for agent in agents:
        app.agent(agent)
    if setup is not None:
        setup(app)
    elif not agents:
        app.agent(Agent(name="helper"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # Frames as large as under another server: the application has a limit of its own.
        config = ServerConfig(
            app, app.settings.server, lifespan="on", timeout_graceful_shutdown=2, ws_max_size=16 * 1024 * 1024
        )
        web = _Server(config)
        task = asyncio.create_task(web.serve(sockets=[listener]))
        waiter = asyncio.create_task(web.ready.wait())
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            await task
            raise RuntimeError("the server did not start")
        server = RunningServer(app, f"http://127.0.0.1:{listener.getsockname()[1]}", provider)
        try:
            yield server
        finally:
            await server.close()
            web.should_exit = True
            await task


@asynccontextmanager
async def running(
    database_url: str,
    script: Script | None = None,
    *,
    agents: Sequence[Agent[Any, Any]] = (),
    setup: Setup | None = None,
    **groups: dict[str, Any],
) -> AsyncIterator[RunningServer]:
    """A server with a provider of its own that answers `script`."""
    async with (
        ScriptedProvider(script) as provider,
        serving(database_url, provider, agents=agents, setup=setup, **groups) as server,
    ):
        yield server
