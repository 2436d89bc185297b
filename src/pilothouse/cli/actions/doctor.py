"""What stands in the way of a server here."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic_ai.models import Model
from sqlalchemy import make_url

from pilothouse.app import Pilothouse
from pilothouse.cli.actions.database import opened_database
from pilothouse.cli.actions.listen import bind
from pilothouse.cli.actions.redis import ping_redis
from pilothouse.cli.actions.target import load_target
from pilothouse.cli.output import show_finding
from pilothouse.db import Database
from pilothouse.db.migrate import schema_versions
from pilothouse.errors import PilothouseError, StartupError
from pilothouse.identity.keys import Keys
from pilothouse.identity.tokens import TokenVerifier
from pilothouse.kit.addresses import is_loopback
from pilothouse.llm.gateway import ModelGateway
from pilothouse.observability.logs import configure_logging
from pilothouse.server.limits import Limits, open_files, room_for_connections
from pilothouse.settings import Settings, load_settings

_PROVIDERS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "azure": ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT"),
}

_FEWEST_CONNECTIONS = 128
"""A server that has room for fewer, unless it is told to, refuses people at a load any site sees."""

Finding = Callable[[], Awaitable[str]]
"""What is well, as a sentence; raises `StartupError` with what to do where it is not, `_Unchecked` if nobody knows."""


class _Unchecked(Exception):
    """A check that can't be made, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def examine(target: str | None) -> int:
    """Print a line for each check. Returns 0 where all is well, else 1."""
    return asyncio.run(_Examination(target).run())


class _Examination:
    def __init__(self, target: str | None) -> None:
        self._target = target
        self._problems = 0

    async def run(self) -> int:
        settings = await self._settings()
        if settings is None:
            return 1
        configure_logging(settings.log.model_copy(update={"level": "error"}), settings.server.environment)
        await self._check("data folder", lambda: _data_folder(settings))
        await self._database(settings)
        if settings.redis.url is not None:
            url = settings.redis.url.get_secret_value()
            await self._check("redis", lambda: _redis(url))
        app = await self._application()
        await self._models(app.settings if app is not None else settings, app)
        await self._check("open files", lambda: _open_files(settings))
        await self._check("port", lambda: _port(settings))
        return 1 if self._problems else 0

    async def _check(self, name: str, finding: Finding) -> bool:
        try:
            self._tell(name, await finding(), well=True)
        except _Unchecked as unchecked:
            self._tell(name, unchecked.why, well=None)
        except PilothouseError as error:
            self._tell(name, error.message, well=False)
            return False
        return True

    def _tell(self, name: str, text: str, *, well: bool | None) -> None:
        self._problems += well is False
        show_finding(f"{name}: {text}", well=well)

    async def _settings(self) -> Settings | None:
        try:
            settings = load_settings()
        except StartupError as error:
            for line in error.message.splitlines():
                self._tell("settings", line, well=False)
            return None
        self._tell("settings", f"read, for {settings.server.environment}.", well=True)
        return settings

    async def _database(self, settings: Settings) -> None:
        file = _database_file(settings)
        if file is not None and not file.exists():
            self._tell("database", f"{file} will be made at the first start.", well=True)
            await self._identity(settings, None)
            return
        try:
            async with opened_database(settings) as database:
                self._tell("database", f"{database.dialect} answers.", well=True)
                await self._check("schema", lambda: _schema(database))
                await self._identity(settings, database)
        except PilothouseError as error:
            self._tell("database", error.message, well=False)
            self._tell("identity", "not checked, since the database may hold keys.", well=None)

    async def _identity(self, settings: Settings, database: Database | None) -> None:
        complete = await self._check("identity", lambda: _identity(settings, database))
        if complete and settings.auth.jwt_jwks_url is not None:
            await self._check("identity provider", lambda: _identity_provider(settings))

    async def _application(self) -> Pilothouse | None:
        if self._target is None:
            return None
        try:
            app = load_target(self._target)
        except PilothouseError as error:
            self._tell("application", error.message, well=False)
            return None
        except Exception as error:  # noqa: BLE001 - a person's module may raise anything
            told = f"{self._target} raises {type(error).__name__} while it is imported: {error}"
            self._tell("application", told, well=False)
            return None
        agents = ", ".join(agent.name for agent in app.agents)
        if not agents:
            self._tell("application", "it has no agents: add one with app.agent(...).", well=False)
            return app
        self._tell("application", f"{self._target} serves {agents}.", well=True)
        return app

    async def _models(self, settings: Settings, app: Pilothouse | None) -> None:
        references = _references(settings, app)
        if not references:
            missing = app is None and not any(
                agent_key in os.environ for keys in _PROVIDERS.values() for agent_key in keys
            )
            told = "no provider has a key; agents with models of their own, and the demo, work." if missing else "none."
            self._tell("models", told, well=None)
        for name, model in references.items():
            await self._check(f"model {name}", lambda model=model: _model(settings, model))


def _references(settings: Settings, app: Pilothouse | None) -> dict[str, str | Model]:
    """The models an application asks for; without one, a model of each provider that has a key."""
    if app is not None:
        found = [(agent.model or settings.models.default, *agent.fallback) for agent in app.agents]
        named = {_name_of(model): model for models in found for model in models if model is not None}
        return dict(sorted(named.items()))
    configured = [
        f"{provider}:any"
        for provider, names in _PROVIDERS.items()
        if getattr(settings, provider).api_key is not None or any(os.environ.get(name) for name in names)
    ]
    return {name: name for name in [*([settings.models.default] if settings.models.default else []), *configured]}


def _name_of(model: str | Model) -> str:
    return model if isinstance(model, str) else f"{model.system}:{model.model_name}"


async def _model(settings: Settings, reference: str | Model) -> str:
    gateway = ModelGateway(settings, os.environ)
    try:
        if not gateway.can_check(reference):
            raise _Unchecked("not checked: Pilothouse has no way to ask this provider about its key.")
        await gateway.check([reference])
    finally:
        await gateway.close()
    return "the provider does not refuse our key."


async def _data_folder(settings: Settings) -> str:
    folder = settings.data.dir.absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StartupError(f"{folder} can't be written. Change its rights, or set PILOTHOUSE_DATA_DIR.")
    return f"{folder} can be written." if nearest == folder else f"{folder} will be made at the first start."


async def _schema(database: Database) -> str:
    current, newest = await schema_versions(database)
    if current == newest:
        return f"version {newest}, the newest."
    if current is None:
        return "the database is empty; the tables will be made at the first start."
    return f"version {current}; the next start, or `pilothouse db upgrade`, brings it to {newest}."


async def _identity(settings: Settings, database: Database | None) -> str:
    configured = TokenVerifier.from_settings(settings.auth) is not None
    if not configured and settings.auth.api_keys and database is not None:
        configured = (await schema_versions(database))[0] is not None and await Keys(database).any_usable()
    if configured:
        return "callers identify themselves with what is configured."
    how = "Make a key with `pilothouse keys create`, or configure JWTs (PILOTHOUSE_AUTH_JWT_…)."
    if settings.server.environment == "production" or not is_loopback(settings.server.host):
        raise StartupError(f"nobody could log in, so a server would not start for others. {how}")
    return f"nobody can log in yet. {how} Or use `pilothouse serve --local`, on this machine."


async def _identity_provider(settings: Settings) -> str:
    url = settings.auth.jwt_jwks_url
    tokens = TokenVerifier.from_settings(settings.auth)
    if tokens is None:
        raise _Unchecked("no JWTs are configured.")
    try:
        await tokens.start()
    finally:
        await tokens.close()
    if tokens.failure is not None:
        raise StartupError(
            f"the keys at {url} can't be fetched ({tokens.failure}), so its JWTs would be answered 503. "
            "Check PILOTHOUSE_AUTH_JWT_JWKS_URL, and that this machine reaches it."
        )
    return f"the keys at {url} can be fetched."


async def _open_files(settings: Settings) -> str:
    files, connections = open_files(), Limits.of(settings.server).connections
    if files is None:
        return f"no limit; {connections:,} connections."
    room, asked = room_for_connections(files), settings.server.max_connections
    how = "Raise the limit of open files: `ulimit -n 65536`, for systemd LimitNOFILE=65536"
    if asked is not None and asked > room:
        raise StartupError(
            f"{files:,} may be open, which leaves room for {max(room, 0):,} connections, not for the {asked:,} of "
            f"PILOTHOUSE_SERVER_MAX_CONNECTIONS. {how}, or lower the setting."
        )
    if asked is None and connections < _FEWEST_CONNECTIONS:
        raise StartupError(f"{files:,} may be open, which leaves room for {connections:,} connections. {how}.")
    return f"{files:,} may be open, {connections:,} of them connections."


async def _redis(url: str) -> str:
    await ping_redis(url)
    return "answers."


async def _port(settings: Settings) -> str:
    server = settings.server
    bind(server.host, server.port).close()
    return f"{server.port} of {server.host} is free." if server.port else f"a free one of {server.host} is picked."


def _database_file(settings: Settings) -> Path | None:
    try:
        url = make_url(settings.database_url)
    except Exception:  # noqa: BLE001 - opening it says what is wrong with it
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
