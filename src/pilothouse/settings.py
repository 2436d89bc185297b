"""Settings: environment variables and `.env`, prefix `PILOTHOUSE_`, one group a concern.

`PILOTHOUSE_<GROUP>_<NAME>`: the group is one word, the name may hold underscores, so
`PILOTHOUSE_DATABASE_URL` is `settings.database.url`. The configuration reference is generated from these classes.
"""

import difflib
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pilothouse.errors import StartupError
from pilothouse.kit.text_lists import parse_items

PREFIX = "PILOTHOUSE_"
CLIENT_VARIABLES = frozenset({"PILOTHOUSE_URL", "PILOTHOUSE_TOKEN"})
"""What the command line reads when it talks to a server: no settings of a server, but no mistakes either."""


# NoDecode: pydantic-settings reads JSON by itself otherwise, and its error names neither the variable nor what to do.
_Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_items)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Group):
    """The HTTP server."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8420, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    environment: Literal["development", "production"] = Field(
        default="development", description="`production` logs JSON and needs configured identity."
    )
    cors_origins: _Texts = Field(
        default=(), description="Origins browsers may call from. Empty: only the server's own."
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="Largest request body, bytes.")
    max_message_bytes: int = Field(default=1_048_576, ge=1024, description="Largest WebSocket message, bytes.")
    max_frames_per_second: float = Field(
        default=50,
        gt=0,
        description="Frames a WebSocket may send for long; twice as many at once. Each 64 KiB of a frame count as one.",
    )
    max_connections_per_credential: int = Field(
        default=2500,
        ge=1,
        description="Most event streams, WebSockets and chats that wait for their answer that an API key or a JWT "
        "may have open at this process.",
    )
    max_connections_per_subject: int = Field(
        default=5000,
        ge=1,
        description="Most event streams, WebSockets and chats that wait for their answer that a subject may have open "
        "at this process, all credentials together.",
    )
    heartbeat_seconds: float = Field(
        default=15, gt=0, le=15, description="Longest silence on an event stream before a heartbeat, seconds."
    )
    shutdown_seconds: float = Field(
        default=20, ge=0, description="How long SIGTERM lets running steps finish, seconds."
    )
    console: bool = Field(default=True, description="Serve the web console at /console.")
    max_header_bytes: int = Field(
        default=65_536, ge=4_096, description="Longest request line and headers together, bytes."
    )
    max_headers: int = Field(default=100, ge=16, description="Most headers of a request.")
    header_seconds: float = Field(
        default=10, gt=0, description="Longest time for a request line and its headers to arrive, seconds."
    )
    keep_alive_seconds: int = Field(
        default=5, ge=1, description="How long a connection may be idle after a request, seconds."
    )
    min_bytes_per_second: int = Field(
        default=1_024,
        ge=0,
        description="Slowest rate at which a request body may arrive, and a response that is no event stream may be "
        "read. 0: any rate.",
    )
    body_seconds: float = Field(
        default=5,
        gt=0,
        description="Period over which the rate of a request body is measured, seconds. A body that is complete within "
        "it may be slower.",
    )
    send_seconds: float = Field(
        default=30, gt=0, description="Period over which the rate of a response's reader is measured, seconds."
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Most open connections of a process. Unset: its limit of open files less a quarter (and at least "
        "64), at most 20,000.",
    )
    max_connections_per_address: int | None = Field(
        default=None,
        ge=0,
        description="Most open connections from one address (IPv6: one /64). 0: no limit. Unset: half of "
        "`max_connections`. Never applies to this machine and to `trusted_proxies`.",
    )
    trusted_proxies: _Texts = Field(
        default=("127.0.0.1", "::1"),
        description="Addresses or networks of reverse proxies. Their `X-Forwarded-For` is believed, "
        "and `max_connections_per_address` does not apply to them.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            ipaddress.ip_network(item)
        return value


class DataSettings(_Group):
    """Where files are kept."""

    dir: Path = Field(default=Path(".pilothouse"), description="Folder of the SQLite database and other files.")


class DatabaseSettings(_Group):
    """The database."""

    url: SecretStr | None = Field(
        default=None,
        description="`postgresql://…`, with libpq's options such as `?sslmode=verify-full`, or "
        "`sqlite:///…`. Unset: a SQLite file in the data folder.",
    )
    pool_size: int = Field(default=5, ge=1, le=200, description="PostgreSQL connections a process may hold.")


class RedisSettings(_Group):
    """Wake-ups between nodes."""

    url: SecretStr | None = Field(
        default=None,
        description="`redis://…` (Redis or Valkey): lets nodes wake each other at once. Without it they look.",
    )


class LogSettings(_Group):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level written."
    )
    format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="`auto` is pretty in a terminal, JSON elsewhere and in production."
    )


class AuthSettings(_Group):
    """Who may call."""

    jwt_secret: SecretStr | None = Field(default=None, description="Shared secret of HS256 tokens, 32 bytes or more.")
    jwt_jwks_url: str | None = Field(
        default=None,
        description="Address of the key set of RS256/ES256 tokens: https, or http on this machine.",
    )
    jwks_max_age_seconds: float = Field(
        default=86_400,
        ge=600,
        description="How long a key set is trusted that can't be fetched again, seconds. Then its tokens get a 503.",
    )
    jwt_issuer: str | None = Field(default=None, description="`iss` a token must carry. Required with JWT.")
    jwt_audience: str | None = Field(default=None, description="`aud` a token must carry. Required with JWT.")
    jwt_tenant_claim: str = Field(default="tenant", description="Claim that holds the tenant; without it: `default`.")
    jwt_scopes_claim: str = Field(default="scope", description="Claim that holds the scopes, spaced or a list.")
    api_keys: bool = Field(default=True, description="Accept API keys (made with `pilothouse keys create`).")
    leeway_seconds: int = Field(default=30, ge=0, le=300, description="Clock difference a token is forgiven, seconds.")


class AuditSettings(_Group):
    """The audit log."""

    retention_days: int = Field(default=400, ge=1, le=36_500, description="How long audit records are kept, days.")


class OpenAISettings(_Group):
    """OpenAI, or any endpoint that speaks its chat completions (Ollama, vLLM, llama.cpp, OpenRouter)."""

    api_key: SecretStr | None = Field(default=None, description="Key. `OPENAI_API_KEY` is read too.")
    base_url: str | None = Field(default=None, description="Base address of a compatible endpoint, ending in /v1.")


class AnthropicSettings(_Group):
    """Anthropic."""

    api_key: SecretStr | None = Field(default=None, description="Key. `ANTHROPIC_API_KEY` is read too.")
    base_url: str | None = Field(default=None, description="Base address, for a proxy.")


class AzureSettings(_Group):
    """Azure OpenAI."""

    api_key: SecretStr | None = Field(default=None, description="Key. `AZURE_OPENAI_API_KEY` is read too.")
    endpoint: str | None = Field(default=None, description="Resource address. `AZURE_OPENAI_ENDPOINT` is read too.")
    api_version: str | None = Field(default=None, description="API version, for resources without the v1 API.")


class ModelSettings(_Group):
    """Models, whoever serves them."""

    default: str | None = Field(default=None, description="Model of agents that name none, as `openai:gpt-…`.")
    check: bool = Field(default=True, description="Check provider credentials at start.")
    fork_allowed: _Texts = Field(
        default=(),
        description="Models that forks may name beside those their agent is served with: "
        "`provider:name`, with `*` and `?` as wildcards.",
    )
    attempts: int = Field(default=4, ge=1, le=10, description="Most tries of a model call that fails transiently.")
    backoff_seconds: float = Field(
        default=0.5, gt=0, description="First wait between tries; doubles, with jitter, seconds."
    )
    backoff_max_seconds: float = Field(default=20, gt=0, description="Longest wait between tries, seconds.")
    first_byte_seconds: float = Field(default=60, gt=0, description="Longest wait for a model's first byte, seconds.")
    stall_seconds: float = Field(
        default=60, gt=0, description="Longest silence in the middle of a model's stream, seconds."
    )
    max_stream_bytes: int = Field(
        default=67_108_864,
        ge=65_536,
        description="Longest streamed answer, bytes on the wire and decompressed. A token takes 200-350 bytes there, "
        "so the default is some 200,000 tokens.",
    )
    max_event_bytes: int = Field(
        default=4_194_304,
        ge=65_536,
        description="Longest single event of a stream, and longest answer in one piece, bytes. The last event of the "
        "Responses API repeats the whole answer; an image the model makes is one event too.",
    )
    max_answer_chars: int = Field(
        default=786_432,
        ge=1_024,
        description="Longest text and reasoning of one answer together, characters. 128,000 tokens are about 500,000.",
    )
    max_argument_chars: int = Field(
        default=524_288, ge=1_024, description="Longest arguments of one tool call, characters."
    )
    max_answer_parts: int = Field(
        default=1_000, ge=1, description="Most parts of one answer: texts, reasoning, tool calls."
    )


class RunSettings(_Group):
    """Limits of a run, unless its agent sets its own."""

    timeout_seconds: float = Field(default=600, gt=0, description="Wall-clock limit of a run, seconds.")
    model_timeout_seconds: float = Field(default=180, gt=0, description="Limit of one model call, seconds.")
    tool_timeout_seconds: float = Field(default=60, gt=0, description="Limit of one tool call, seconds.")
    max_iterations: int = Field(default=20, ge=1, description="Most model requests in one run.")
    stall_repeats: int = Field(
        default=4, ge=2, description="Same tool with same arguments this often in a row: stalled."
    )
    argument_retries: int = Field(default=3, ge=0, description="Times malformed tool arguments go back to the model.")
    tool_output_chars: int = Field(
        default=32_000, ge=256, description="Longest tool result the model is shown, characters."
    )
    history_messages: int = Field(default=80, ge=2, description="Most messages of history a turn loads.")
    history_tokens: int | None = Field(
        default=None,
        ge=256,
        description="Most tokens of history a turn sends. Unset: the model's window less its answer.",
    )
    history_attachment_bytes: int = Field(
        default=5_242_880,
        ge=0,
        description="Most bytes of earlier messages' images and PDFs a turn sends; older ones are left out. "
        "A megabyte takes the event loop some 8 ms with each model call.",
    )
    attachment_bytes: int = Field(default=5_242_880, ge=0, description="Largest attachment, bytes (after decoding).")
    queue_length: int = Field(default=20, ge=1, description="Most runs waiting in one conversation with on_busy=queue.")
    delta_flush_seconds: float = Field(
        default=0.25, gt=0, description="How often streamed text is written to the event log, seconds."
    )
    delta_retention_seconds: float = Field(
        default=3600, ge=0, description="How long streamed text stays in the log after its message, seconds."
    )


class LeaseSettings(_Group):
    """How nodes on one PostgreSQL database know of each other's death."""

    heartbeat_seconds: float = Field(default=3, gt=0, le=60, description="Between two signs of life, seconds.")
    expiry_seconds: float = Field(
        default=10, gt=2, le=300, description="Silence after which others take a node's runs over, seconds."
    )
    reap_seconds: float = Field(default=2, gt=0, le=60, description="How often a node looks for orphans, seconds.")

    @model_validator(mode="after")
    def _beats_in_time(self) -> Self:
        if self.expiry_seconds < 2 * self.heartbeat_seconds:
            raise ValueError("expiry_seconds must be at least twice heartbeat_seconds")
        return self


class Settings(BaseSettings):
    """Everything that can be configured. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",  # a .env file is shared with other programs; our own unknown names are refused below
        frozen=True,
    )

    server: ServerSettings = Field(default_factory=ServerSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    openai: OpenAISettings = Field(default_factory=OpenAISettings)
    anthropic: AnthropicSettings = Field(default_factory=AnthropicSettings)
    azure: AzureSettings = Field(default_factory=AzureSettings)
    runs: RunSettings = Field(default_factory=RunSettings)
    lease: LeaseSettings = Field(default_factory=LeaseSettings)

    @property
    def database_url(self) -> str:
        """The configured address, or the SQLite file in the data folder."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{(self.data.dir / 'pilothouse.db').absolute()}"


def load_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """Read settings; what is given here wins over the environment, which wins over `env_file`.

    Args:
        env_file: a file of `NAME=value` lines; a missing one is no error.
        overrides: whole groups, as dictionaries: `server={"port": 0}`.

    Raises:
        StartupError: a name is unknown or a value wrong; the sentence names the variable and the fix.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise StartupError(f"There is no group of settings named {', '.join(sorted(unknown))}.")
    file = env_file if env_file is not None and env_file.is_file() else None
    _refuse_unknown_names(file)
    try:
        return Settings(_env_file=file, **overrides)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        raise StartupError("\n".join(_sentence(item) for item in error.errors(include_url=False))) from None


def setting_names() -> dict[str, tuple[str, Any]]:
    """Every environment variable, with its group's name and its field."""
    return {
        f"{PREFIX}{group}_{name}".upper(): (group, field)
        for group, outer in Settings.model_fields.items()
        for name, field in outer.annotation.model_fields.items()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
    }


def _refuse_unknown_names(env_file: Path | None) -> None:
    known = setting_names()
    given = [*os.environ, *(dotenv_values(env_file) if env_file else ())]
    for name in given:
        if not name.upper().startswith(PREFIX) or name.upper() in known or name.upper() in CLIENT_VARIABLES:
            continue
        near = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f"Did you mean {near[0]}?" if near else "See docs/configuration.md for the names."
        raise StartupError(f"{name} is not a setting. {hint}")


def _sentence(item: Any) -> str:
    path = [str(part) for part in item["loc"]]
    name = f"{PREFIX}{'_'.join(path[:2])}".upper()
    shown = "" if "secret" in name.lower() or "key" in name.lower() else f" (given: {str(item.get('input'))[:80]!r})"
    return f"{name} is wrong: {item['msg']}{shown}."
