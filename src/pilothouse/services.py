"""What runs inside a started application: opened, checked and connected in order, and closed in the opposite one."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic_ai.models import Model
from sqlalchemy import make_url

from pilothouse.agents.registry import AgentRegistry
from pilothouse.audit.service import Audit
from pilothouse.conversations.service import Conversations
from pilothouse.db import Database, open_database
from pilothouse.db.migrate import upgrade_schema
from pilothouse.engine.folder import FolderLock, protect_data_folder
from pilothouse.engine.leases import Lease, Ownership, SoleOwner
from pilothouse.engine.readiness import Readiness
from pilothouse.engine.supervisor import Supervisor
from pilothouse.errors import StartupError, Unavailable
from pilothouse.idempotency.service import Idempotency
from pilothouse.identity.connections import Connections
from pilothouse.identity.principal import Principal, local_principal
from pilothouse.identity.service import Identity
from pilothouse.kit.health import Check
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import get_logger
from pilothouse.runs.deltas import DeltaWriter
from pilothouse.runs.execute import Executor
from pilothouse.runs.follow import Follower
from pilothouse.runs.fork import Forks
from pilothouse.runs.live import LiveRuns
from pilothouse.runs.log_watcher import AllTold, LogWatcher
from pilothouse.runs.reaper import Reaper
from pilothouse.runs.requests import ChatRequests
from pilothouse.runs.service import Runs
from pilothouse.runs.states import TERMINAL
from pilothouse.runs.upkeep import Upkeep
from pilothouse.runs.wakeups import NoWakeups, Wakeups
from pilothouse.settings import LeaseSettings, Settings
from pilothouse.tools.service import ToolService
from pilothouse.version import VERSION

log = get_logger(__name__)

_TOOL_THREADS = 8
_HEARTBEAT_SECONDS = 2.0
_STALE_SECONDS = 15.0


@dataclass
class Services:
    """The collaborators of a started application."""

    database: Database
    identity: Identity
    connections: Connections
    audit: Audit
    idempotency: Idempotency
    gateway: ModelGateway
    executor: Executor
    runs: Runs
    forks: Forks
    chat_requests: ChatRequests
    conversations: Conversations
    tools: ToolService
    deltas: DeltaWriter
    follower: Follower
    wakeups: Wakeups
    reaper: Reaper
    readiness: Readiness

    async def stop_conversation(self, principal: Principal, conversation_id: str) -> None:
        """Stop every run of a conversation that has not ended."""
        for row in await self.runs.page(principal, limit=100, conversation_id=conversation_id):
            if row.state not in TERMINAL:
                await self.runs.cancel(principal, row.id, reason="its conversation is deleted")

    async def drain(self, grace_seconds: float) -> None:
        """Take no new runs, let those that run end for a while, then end what follows them."""
        await self.executor.close(grace_seconds=grace_seconds)
        self.wakeups.reapers_look()
        try:
            await self.deltas.write_all()
        except Unavailable as error:
            log.warning("streamed_text_not_written", reason=error.message)
        self.follower.close()


@asynccontextmanager
async def started(
    settings: Settings, registry: AgentRegistry, environ: Mapping[str, str], *, local: bool
) -> AsyncGenerator[Services]:
    """The services, for as long as the block lasts. Drain them before leaving it.

    Args:
        environ: where providers' own variables are looked up.
        local: let callers without credentials in, as one local person.

    Raises:
        StartupError: something can't be used as configured.
    """
    embedded = make_url(settings.database_url).get_backend_name() == "sqlite"
    async with AsyncExitStack() as stack:
        if embedded:
            folder = Path(make_url(settings.database_url).database or "").parent
            stack.callback(FolderLock.acquire(folder).release)
        protect_data_folder(settings.data.dir)
        _require_models(registry, settings)
        gateway = ModelGateway(settings, environ)
        stack.push_async_callback(gateway.close)
        if settings.models.check:
            await gateway.check(_references(registry, settings))
        database = await open_database(settings.database_url, pool_size=settings.database.pool_size)
        stack.push_async_callback(database.close)
        await upgrade_schema(database)
        identity = await _identity(stack, settings, database, local=local)
        audit = Audit(database, retention_days=settings.audit.retention_days)
        stack.push_async_callback(audit.close)
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.close)
        ownership = SoleOwner() if embedded else await _lease(stack, settings, supervisor)
        threads = ThreadPoolExecutor(_TOOL_THREADS, thread_name_prefix="tool")
        stack.callback(partial(threads.shutdown, wait=False, cancel_futures=True))
        services = await _connect(
            stack, settings, registry, (database, gateway, identity, audit, ownership, threads, supervisor)
        )
        await services.reaper.once()
        if isinstance(ownership, SoleOwner):
            supervisor.start("alive", partial(_leave_signs, ownership, services, settings.lease))
        supervisor.start("reaper", services.reaper.round, stale_seconds=settings.lease.reap_seconds + _STALE_SECONDS)
        log.info("server_started", agents=[agent.name for agent in registry], version=VERSION)
        yield services


async def _connect(
    stack: AsyncExitStack,
    settings: Settings,
    registry: AgentRegistry,
    opened: tuple[Database, ModelGateway, Identity, Audit, Ownership, ThreadPoolExecutor, Supervisor],
) -> Services:
    """Put together what works on the opened parts."""
    database, gateway, identity, audit, ownership, threads, supervisor = opened
    supervisor.start("audit-writer", audit.round)
    waker = _Waker()
    wakeups = await _wakeups(stack, settings, waker, supervisor)
    live = LiveRuns(announce=wakeups.run_changed)
    deltas = DeltaWriter(database, interval_seconds=settings.runs.delta_flush_seconds)
    supervisor.start("delta-writer", deltas.round)
    executor = Executor(
        database=database,
        agents=registry,
        gateway=gateway,
        live=live,
        deltas=deltas,
        ownership=ownership,
        default_model=settings.models.default,
        lapsed=identity.lapsed,
    )
    upkeep = Upkeep(database, delta_retention_seconds=settings.runs.delta_retention_seconds)
    supervisor.start("upkeep", upkeep.round)
    alone = isinstance(ownership, SoleOwner)
    reaper = Reaper(database, executor, alone=alone, interval_seconds=settings.lease.reap_seconds)
    watcher = LogWatcher(database, live.watches, AllTold() if alone else wakeups)
    watcher.start(supervisor)
    waker.live, waker.reaper, waker.watcher = live, reaper, watcher
    follower = Follower(database, live)
    connections = _connections(settings, identity, supervisor)
    return Services(
        database=database,
        identity=identity,
        connections=connections,
        audit=audit,
        idempotency=Idempotency(database),
        gateway=gateway,
        executor=executor,
        runs=Runs(database, executor, follower, wakeups, queue_length=settings.runs.queue_length),
        forks=Forks(
            database,
            executor,
            registry,
            gateway,
            default_model=settings.models.default,
            allowed_models=settings.models.fork_allowed,
        ),
        chat_requests=ChatRequests(registry, database, attachment_bytes=settings.runs.attachment_bytes),
        conversations=Conversations(database),
        tools=ToolService(registry.tools, settings.runs, threads=threads),
        deltas=deltas,
        follower=follower,
        wakeups=wakeups,
        reaper=reaper,
        readiness=Readiness(
            database, supervisor, refusal=executor.refusal, others=partial(_checks, wakeups, executor, identity)
        ),
    )


class _Waker:
    """Hands a wake-up to those who can use it, once they are there."""

    live: LiveRuns | None = None
    reaper: Reaper | None = None
    watcher: LogWatcher | None = None

    def on_run(self, run_id: str) -> None:
        if self.live is not None:
            self.live.look(run_id)

    def on_look(self) -> None:
        if self.reaper is not None:
            self.reaper.look()

    def on_connected(self) -> None:
        """Nobody knows what was said while there was no connection: look at everything."""
        self.on_look()
        if self.watcher is not None:
            self.watcher.look()


async def _identity(stack: AsyncExitStack, settings: Settings, database: Database, *, local: bool) -> Identity:
    identity = Identity(settings.auth, database, local=local_principal() if local else None)
    stack.push_async_callback(identity.close)
    await identity.start()
    if settings.server.environment == "production":
        identity.require_configured()
    return identity


async def _lease(stack: AsyncExitStack, settings: Settings, supervisor: Supervisor) -> Lease:
    """The process's lease, on a connection of its own: nothing that occupies the others delays the heartbeat."""
    times = settings.lease
    limit = min(_HEARTBEAT_SECONDS, times.heartbeat_seconds)
    database = await open_database(settings.database_url, pool_size=1, limit_seconds=limit)
    stack.push_async_callback(database.close)
    lease = Lease(
        database,
        supervisor,
        heartbeat_seconds=times.heartbeat_seconds,
        expiry_seconds=times.expiry_seconds,
    )
    stack.push_async_callback(lease.close)
    await lease.start()
    return lease


async def _wakeups(stack: AsyncExitStack, settings: Settings, waker: _Waker, supervisor: Supervisor) -> Wakeups:
    if settings.redis.url is None:
        return NoWakeups()
    try:
        from pilothouse.runs.redis_wakeups import RedisWakeups  # noqa: PLC0415 - needs the `redis` extra
    except ModuleNotFoundError as error:
        raise StartupError("PILOTHOUSE_REDIS_URL needs its driver: pip install 'pilothouse[redis]'.") from error
    try:
        wakeups = RedisWakeups(
            settings.redis.url.get_secret_value(),
            on_run=waker.on_run,
            on_look=waker.on_look,
            on_connected=waker.on_connected,
        )
    except ValueError as error:
        raise StartupError("PILOTHOUSE_REDIS_URL is not a Redis address. Use redis://host:6379/0.") from error
    if (reason := await wakeups.why_away()) is not None:
        log.warning("redis_away", reason=reason, meaning="nodes wake each other more slowly until it is back")
    wakeups.start(supervisor)
    stack.push_async_callback(wakeups.close)
    return wakeups


def _connections(settings: Settings, identity: Identity, supervisor: Supervisor) -> Connections:
    """The connections that stay open, and the loop that ends them with their credentials."""
    server = settings.server
    connections = Connections(
        identity.keys,
        per_credential=server.max_connections_per_credential,
        per_subject=server.max_connections_per_subject,
    )
    supervisor.start("credentials", connections.round, stale_seconds=_STALE_SECONDS)
    return connections


def _checks(wakeups: Wakeups, executor: Executor, identity: Identity) -> list[Check]:
    """What is worth telling, though the process works without it: wake-ups, the identity provider's keys, and that a
    suspect executes alone.
    """
    alone = executor.isolation.run_id
    told = [] if alone is None else [Check("isolation", ok=False, age_seconds=0.0, reason=f"{alone} executes alone.")]
    told.extend(identity.checks())
    if isinstance(wakeups, NoWakeups):
        return told
    reason = None if wakeups.healthy else "Redis gives no sign of life: nodes wake each other more slowly."
    return [*told, Check("wakeups", ok=wakeups.healthy, age_seconds=wakeups.silent_seconds or 0.0, reason=reason)]


async def _leave_signs(owner: SoleOwner, services: Services, times: LeaseSettings) -> None:
    """One round: while runs execute, say that this process is alive."""
    if len(services.executor):
        await owner.leave_sign(services.database, lasting_ms=round(times.heartbeat_seconds * 1000))
    await asyncio.sleep(times.heartbeat_seconds)


def _require_models(registry: AgentRegistry, settings: Settings) -> None:
    for agent in registry:
        if agent.model is None and settings.models.default is None:
            raise StartupError(
                f"Agent {agent.name} has no model. Give it one, app.agent(agent, model='openai:...'), "
                "or set PILOTHOUSE_MODELS_DEFAULT for all agents that name none."
            )


def _references(registry: AgentRegistry, settings: Settings) -> list[str | Model]:
    found: list[str | Model] = []
    for agent in registry:
        found.extend(item for item in (agent.model or settings.models.default, *agent.fallback) if item)
    return found
