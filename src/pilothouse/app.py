"""The application: what an engineer writes against, and where everything is put together."""

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset
from sqlalchemy import make_url, text
from starlette.types import Receive, Scope, Send

from pilothouse.agents import endpoints as agent_endpoints
from pilothouse.agents.prompts import Prompt
from pilothouse.agents.registry import AgentRegistry, DepsRequest, ServedAgent
from pilothouse.console.routes import mount_console
from pilothouse.conversations import endpoints as conversation_endpoints
from pilothouse.conversations.service import Conversations
from pilothouse.db import Database, open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.engine.folder import FolderLock
from pilothouse.engine.leases import Lease, SoleOwner
from pilothouse.errors import PilothouseError
from pilothouse.http.docs import install_docs
from pilothouse.http.health import health_router
from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers
from pilothouse.identity import endpoints as identity_endpoints
from pilothouse.identity.principal import Principal, local_principal
from pilothouse.identity.service import Identity
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import configure_logging, get_logger
from pilothouse.runs import chat_endpoints, websocket
from pilothouse.runs import endpoints as run_endpoints
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.execute import Executor
from pilothouse.runs.follow import Follower
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.requests import ChatRequests
from pilothouse.runs.service import Runs
from pilothouse.runs.states import TERMINAL
from pilothouse.runs.upkeep import Upkeep
from pilothouse.settings import Settings, load_settings
from pilothouse.tools import endpoints as tool_endpoints
from pilothouse.tools.registry import ToolRegistry
from pilothouse.tools.service import ToolService
from pilothouse.version import VERSION

log = get_logger(__name__)

_TOOL_THREADS = 8


class Pilothouse:
    """An ASGI application that serves agents.

        app = Pilothouse()
        app.agent(Agent("anthropic:...", name="support"))

    Run it with `pilothouse serve main:app`, or with any ASGI server.

    Args:
        settings: instead of those from the environment and `.env`.
        local: let callers without credentials in as one local person. For development on one's own machine only.
        environ: where providers' own variables such as `OPENAI_API_KEY` are looked up.
        base: folder that relative prompt paths start from; by default the working directory.

    Raises:
        StartupError: a setting is unknown or wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        local: bool = False,
        environ: Mapping[str, str] | None = None,
        base: Path | None = None,
    ) -> None:
        self.settings = settings or load_settings()
        self.local = local
        self._environ = os.environ if environ is None else environ
        self._agents = AgentRegistry(self.settings.runs, tools=ToolRegistry(), base=base)
        self._services: Services | None = None
        self.fastapi = self._build()

    def agent(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        name: str | None = None,
        description: str | None = None,
        prompt: str | Path | Prompt | None = None,
        model: str | Model | None = None,
        fallback: Sequence[str | Model] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: Sequence[Callable[..., Any] | Tool[Any]] = (),
        toolsets: Sequence[AbstractToolset[Any]] = (),
        deps: Callable[[DepsRequest], Any] | None = None,
        default: bool = False,
        **limits: Any,
    ) -> ServedAgent:
        """Serve a Pydantic AI agent, unchanged. See `AgentRegistry.add` for the arguments.

        Raises:
            StartupError: a name is missing or taken, or a value is wrong.
        """
        return self._agents.add(
            agent,
            name=name,
            description=description,
            prompt=prompt,
            model=model,
            fallback=fallback,
            temperature=temperature,
            max_tokens=max_tokens,
            tools=tools,
            toolsets=toolsets,
            deps=deps,
            default=default,
            **limits,
        )

    @property
    def agents(self) -> AgentRegistry:
        """The agents that are served."""
        return self._agents

    @property
    def services(self) -> "Services":
        """What runs inside a started application.

        Raises:
            RuntimeError: it has not been started.
        """
        if self._services is None:
            raise RuntimeError("The application has not been started: use it through an ASGI server or `running()`.")
        return self._services

    async def begin_shutdown(self) -> None:
        """What a server calls when it is told to stop, before it closes connections. `pilothouse serve` does.

        New runs are refused with 503 and `/health/ready` says so; what runs may end for
        `settings.server.shutdown_seconds`, and the rest is left as it is, to be continued later; then event streams
        end, so that their readers come back elsewhere with `Last-Event-ID`.
        """
        if self._services is not None:
            await self._services.drain(self.settings.server.shutdown_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        await self.fastapi(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator["Services"]:
        """Start everything, and stop it in order at the end. ASGI servers do this by the lifespan protocol."""
        settings = self.settings
        configure_logging(settings.log, settings.server.environment)
        services = await _start(settings, self._agents, self._environ, local=self.local)
        self._services = services
        self._publish(services)
        try:
            yield services
        finally:
            await services.close(settings.server.shutdown_seconds)
            self._services = None

    def _build(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            async with self.running():
                yield

        api = FastAPI(
            title="Pilothouse",
            version=VERSION,
            summary="The production backend for AI agents.",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url="/openapi.json",
        )
        for router in (
            chat_endpoints.router,
            websocket.router,
            run_endpoints.router,
            conversation_endpoints.router,
            agent_endpoints.router,
            tool_endpoints.router,
            identity_endpoints.router,
            health_router(self._not_ready),
        ):
            api.include_router(router)
        install_docs(api)
        if self.settings.server.console:
            mount_console(api)
        install_problem_handlers(api)
        add_middleware(api, self.settings)
        return api

    def _publish(self, services: "Services") -> None:
        state = self.fastapi.state
        state.settings = self.settings
        state.agents = self._agents
        state.identity = services.identity
        state.runs = services.runs
        state.chat_requests = services.chat_requests
        state.conversations = services.conversations
        state.tools = services.tools
        state.stop_conversation = services.stop_conversation

    async def _not_ready(self) -> str | None:
        services = self._services
        if services is None:
            return "The server is starting."
        return await services.not_ready()


@dataclass
class Services:
    """The collaborators of a started application."""

    database: Database
    identity: Identity
    gateway: ModelGateway
    executor: Executor
    runs: Runs
    chat_requests: ChatRequests
    conversations: Conversations
    tools: ToolService
    deltas: DeltaWriter
    follower: Follower
    upkeep: Upkeep
    reaper: Reaper
    lease: Lease | None
    threads: ThreadPoolExecutor
    lock: FolderLock | None

    async def not_ready(self) -> str | None:
        """Why no new work is taken, or None."""
        if self.executor.stopping:
            return "The server is stopping."
        try:
            await self.database.read(lambda connection: connection.execute(text("SELECT 1")) and None)
        except PilothouseError as error:
            return error.message
        return None

    async def stop_conversation(self, principal: Principal, conversation_id: str) -> None:
        """Stop every run of a conversation that has not ended."""
        for row in await self.runs.page(principal, limit=100, conversation_id=conversation_id):
            if row.state not in TERMINAL:
                await self.runs.cancel(principal, row.id, reason="its conversation is deleted")

    async def drain(self, grace_seconds: float) -> None:
        """Take no new runs, let those that run end for a while, then end what follows them."""
        await self.executor.close(grace_seconds=grace_seconds)
        await self.deltas.close()
        self.follower.close()

    async def close(self, grace_seconds: float) -> None:
        """Stop in order: no new runs, what runs, what writes, what is connected."""
        await self.drain(grace_seconds)
        await self.upkeep.close()
        await self.reaper.close()
        if self.lease is not None:
            await self.lease.close()
        await self.identity.close()
        await self.gateway.close()
        self.threads.shutdown(wait=False, cancel_futures=True)
        await self.database.close()
        if self.lock is not None:
            self.lock.release()


async def _start(settings: Settings, registry: AgentRegistry, environ: Mapping[str, str], *, local: bool) -> Services:
    """Open, check and connect everything, in order.

    Raises:
        StartupError: something can't be used as configured.
    """
    url = make_url(settings.database_url)
    embedded = url.get_backend_name() == "sqlite"
    lock = FolderLock.acquire(Path(url.database or "").parent) if embedded else None
    gateway: ModelGateway | None = None
    database: Database | None = None
    try:
        gateway = ModelGateway(settings, environ)
        if settings.models.check:
            await gateway.check(_references(registry, settings))
        database = await open_database(settings.database_url, pool_size=settings.database.pool_size)
        await upgrade_schema(database)
        identity = Identity(settings.auth, database, local=local_principal() if local else None)
        await identity.start()
        if settings.server.environment == "production":
            identity.require_configured()
    except BaseException:
        if gateway is not None:
            await gateway.close()
        if database is not None:
            await database.close()
        if lock is not None:
            lock.release()
        raise
    lease: Lease | None = None
    if not embedded:
        lease = Lease(
            database,
            heartbeat_seconds=settings.lease.heartbeat_seconds,
            expiry_seconds=settings.lease.expiry_seconds,
        )
        await lease.start()
    ownership = lease or SoleOwner()
    live = LiveRuns()
    deltas = DeltaWriter(database, interval_seconds=settings.runs.delta_flush_seconds)
    executor = Executor(
        database=database,
        agents=registry,
        gateway=gateway,
        live=live,
        deltas=deltas,
        ownership=ownership,
        default_model=settings.models.default,
    )
    follower = Follower(database, live)
    threads = ThreadPoolExecutor(_TOOL_THREADS, thread_name_prefix="tool")
    upkeep = Upkeep(database, delta_retention_seconds=settings.runs.delta_retention_seconds)
    upkeep.start()
    reaper = Reaper(database, executor, alone=embedded, interval_seconds=settings.lease.reap_seconds)
    await reaper.once()
    reaper.start()
    log.info("server_started", agents=[agent.name for agent in registry], version=VERSION)
    return Services(
        database=database,
        identity=identity,
        gateway=gateway,
        executor=executor,
        runs=Runs(database, executor, follower, queue_length=settings.runs.queue_length),
        chat_requests=ChatRequests(registry, database, attachment_bytes=settings.runs.attachment_bytes),
        conversations=Conversations(database),
        tools=ToolService(registry.tools, settings.runs, threads=threads),
        deltas=deltas,
        follower=follower,
        upkeep=upkeep,
        reaper=reaper,
        lease=lease,
        threads=threads,
        lock=lock,
    )


def _references(registry: AgentRegistry, settings: Settings) -> list[str | Model]:
    found: list[str | Model] = []
    for agent in registry:
        found.extend(item for item in (agent.model or settings.models.default, *agent.fallback) if item)
    return found


__all__ = ["Pilothouse", "Services"]
