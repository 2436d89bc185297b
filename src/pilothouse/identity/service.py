"""Who is calling: API keys, JWTs, or, where the server was started for one person's own machine, that person."""

from typing import Literal

from pilothouse.db import Database
from pilothouse.errors import StartupError
from pilothouse.identity.keys import Keys, is_api_key
from pilothouse.identity.principal import Principal
from pilothouse.identity.problems import unauthenticated
from pilothouse.identity.tokens import TokenVerifier
from pilothouse.kit.addresses import is_loopback
from pilothouse.kit.clock import now_ms
from pilothouse.kit.health import Check
from pilothouse.settings import AuthSettings

__all__ = ["MOST_TOKEN_CHARS", "Identity"]

MOST_TOKEN_CHARS = 8192

_HOW = (
    "Make an API key with: pilothouse keys create, or set PILOTHOUSE_AUTH_JWT_SECRET or PILOTHOUSE_AUTH_JWT_JWKS_URL."
)


class Identity:
    """Turns credentials into a `Principal`.

    Args:
        local: whom a caller without credentials is taken for. Give it only where the server was explicitly started in
            local development mode.

    Raises:
        StartupError: the JWT settings are incomplete or unsafe.
    """

    def __init__(self, settings: AuthSettings, database: Database, *, local: Principal | None = None) -> None:
        self._settings = settings
        self._local = local
        self._tokens = TokenVerifier.from_settings(settings)
        self._has_keys = False
        self.keys = Keys(database)

    @property
    def configured(self) -> bool:
        """Whether anybody could log in when the server started: with a JWT, or with an API key that was made."""
        return self._tokens is not None or self._has_keys

    @property
    def open(self) -> bool:
        """Whether callers without credentials are let in (local development mode)."""
        return self._local is not None

    async def start(self) -> None:
        """Look for API keys and fetch the identity provider's keys."""
        if self._settings.api_keys:
            self._has_keys = await self.keys.any_usable()
        if self._tokens is not None:
            await self._tokens.start()

    def checks(self) -> list[Check]:
        """What readiness reports of it."""
        check = None if self._tokens is None else self._tokens.check()
        return [] if check is None else [check]

    async def close(self) -> None:
        """Let go of connections; finish what is being written."""
        await self.keys.close()
        if self._tokens is not None:
            await self._tokens.close()

    def check_listen_address(self, host: str) -> None:
        """See that nobody can reach this server unasked. Call it after `start`.

        Raises:
            StartupError: `host` is not this machine alone, and callers need no credentials, or nobody has any.
        """
        if is_loopback(host):
            return
        if self._local is not None:
            raise StartupError(
                f"In local development mode anybody who reaches the server may use it, so it can't listen on {host!r}. "
                f"Listen on 127.0.0.1, or leave local development mode. {_HOW}"
            )
        if not self.configured:
            raise StartupError(f"The server can't listen on {host!r} before callers can identify themselves. {_HOW}")

    def require_configured(self) -> None:
        """For production: see that callers identify themselves. Call it after `start`.

        Raises:
            StartupError: they need no credentials, or nobody has any.
        """
        if self._local is not None or not self.configured:
            raise StartupError(f"In production, callers have to identify themselves. {_HOW}")

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `Authorization` header's value.

        Raises:
            Unauthenticated: there is none, or it is no good.
            Unavailable: it can't be checked right now.
        """
        if authorization is None:
            if self._local is not None:
                return self._local
            raise unauthenticated("This needs a token. Send the header Authorization: Bearer <token>.", given=False)
        if len(authorization) > MOST_TOKEN_CHARS:
            raise unauthenticated(f"The Authorization header is longer than {MOST_TOKEN_CHARS} characters.")
        scheme, _, token = authorization.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated("The Authorization header has to read: Bearer <token>.")
        if not token.isascii():
            raise unauthenticated("The token holds characters no token has. Check that it was copied whole.")
        return await self._bearer(token)

    async def lapsed(self, principal: Principal) -> Literal["expired", "revoked"] | None:
        """Why the credential that a caller came with some time ago is no longer good; None: it is, as far as is known.

        Raises:
            Unavailable: it can't be checked right now.
        """
        if principal.kind == "api_key" and principal.key_id is not None:
            return await self.keys.lapsed(principal.tenant, principal.key_id)
        if principal.expires_at is not None and principal.expires_at <= now_ms():
            return "expired"
        return None

    async def _bearer(self, token: str) -> Principal:
        if is_api_key(token):
            if not self._settings.api_keys:
                raise unauthenticated("This server does not accept API keys. Use a JWT.")
            return await self.keys.authenticate(token)
        if self._tokens is None:
            raise unauthenticated("This is not an API key of this server, and it accepts no other tokens.")
        return await self._tokens.authenticate(token)
