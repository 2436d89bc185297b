"""The application: what an engineer writes against, and where everything is put together."""

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset
from starlette.types import Receive, Scope, Send

from pilothouse.agents import endpoints as agent_endpoints
from pilothouse.agents.prompts import Prompt
from pilothouse.agents.registry import AgentRegistry, DepsRequest, ServedAgent
from pilothouse.audit import endpoints as audit_endpoints
from pilothouse.audit.http import AuditMiddleware
from pilothouse.console.routes import mount_console
from pilothouse.conversations import endpoints as conversation_endpoints
from pilothouse.http.docs import install_docs
from pilothouse.http.health import health_router
from pilothouse.http.middleware import add_middleware
from pilothouse.http.problems import install_problem_handlers
from pilothouse.http.started import NOT_STARTED, StartedMiddleware
from pilothouse.identity import endpoints as identity_endpoints
from pilothouse.kit.collector import calm_collector
from pilothouse.kit.health import Health
from pilothouse.observability.logs import configure_logging
from pilothouse.runs import chat_endpoints, websocket
from pilothouse.runs import endpoints as run_endpoints
from pilothouse.services import Services, started
from pilothouse.settings import Settings, load_settings
from pilothouse.tools import endpoints as tool_endpoints
from pilothouse.tools.registry import ToolRegistry
from pilothouse.version import VERSION


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
    def services(self) -> Services:
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
    async def running(self) -> AsyncGenerator[Services]:
        """Start everything, and stop it in order at the end. ASGI servers do this by the lifespan protocol."""
        settings = self.settings
        configure_logging(settings.log, settings.server.environment)
        async with started(settings, self._agents, self._environ, local=self.local) as services:
            self._services = services
            self._publish(services)
            try:
                yield services
            finally:
                await services.drain(settings.server.shutdown_seconds)
                self._services = None

    def _build(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            async with self.running():
                with calm_collector():
                    yield

        api = FastAPI(
            title="Pilothouse",
            version=VERSION,
            summary="The production backend for AI agents.",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url="/openapi.json",
            redirect_slashes=False,  # its redirects are absolute, and http behind a proxy that does not say https
            generate_unique_id_function=lambda route: route.name,
        )
        for router in (
            chat_endpoints.router,
            websocket.router,
            run_endpoints.router,
            conversation_endpoints.router,
            agent_endpoints.router,
            tool_endpoints.router,
            identity_endpoints.router,
            audit_endpoints.router,
            health_router(self._health),
        ):
            api.include_router(router)
        install_docs(api)
        if self.settings.server.console:
            mount_console(api)
        install_problem_handlers(api)
        api.add_middleware(AuditMiddleware)  # before the others, so that it stands inside of them
        api.add_middleware(StartedMiddleware, is_started=lambda: self._services is not None)
        add_middleware(api, self.settings)
        return api

    def _publish(self, services: Services) -> None:
        state = self.fastapi.state
        state.settings = self.settings
        state.agents = self._agents
        state.identity = services.identity
        state.connections = services.connections
        state.audit = services.audit
        state.idempotency = services.idempotency
        state.runs = services.runs
        state.forks = services.forks
        state.chat_requests = services.chat_requests
        state.conversations = services.conversations
        state.tools = services.tools
        state.stop_conversation = services.stop_conversation

    async def _health(self) -> Health:
        services = self._services
        return Health(NOT_STARTED) if services is None else await services.readiness.report()


__all__ = ["Pilothouse", "Services"]
