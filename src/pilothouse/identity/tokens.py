"""JWTs: what a signed token says about its bearer.

Each key checks one algorithm only, fixed by how the key was configured and never by the token: HS256 with the shared
secret, RS256 or ES256 with a key of the provider's set. `exp`, `iss`, `aud` and `sub` are required.
"""

import hashlib
from collections.abc import Callable
from time import monotonic as system_monotonic
from typing import Any, cast
from urllib.parse import urlsplit

import jwt

from pilothouse.errors import StartupError, Unauthenticated
from pilothouse.identity.jwks import ALGORITHMS, KeySet
from pilothouse.identity.principal import (
    MOST_SUBJECT_CHARS,
    MOST_TENANT_CHARS,
    USER_SCOPES,
    Principal,
    is_name,
)
from pilothouse.identity.problems import unauthenticated
from pilothouse.kit.addresses import is_loopback
from pilothouse.kit.health import Check
from pilothouse.kit.printable import has_unsafe
from pilothouse.settings import AuthSettings

_FEWEST_SECRET_BYTES = 32
_MOST_SCOPES_CHARS = 8192
_DEFAULT_TENANT = "default"
_FAR_SECONDS = 253_402_300_799  # the end of the year 9999

_SENTENCES: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "The token has expired. Get a new one."),
    (jwt.ImmatureSignatureError, "The token is not valid yet. Check the clock of the machine that issued it."),
    (jwt.InvalidIssuerError, "The token's issuer (iss) is not the one this server trusts."),
    (jwt.InvalidAudienceError, "The token was issued for another audience (aud) than this server."),
    (jwt.InvalidAlgorithmError, "The token is signed with an algorithm this server does not accept."),
)


class TokenVerifier:
    """Checks JWTs as configured. Make it with `from_settings`."""

    def __init__(self, settings: AuthSettings, *, secret: bytes | None, keys: KeySet | None) -> None:
        self._settings = settings
        self._secret = secret
        self._keys = keys

    @classmethod
    def from_settings(
        cls, settings: AuthSettings, *, monotonic: Callable[[], float] = system_monotonic
    ) -> "TokenVerifier | None":
        """The verifier, or None where no JWT setting is made.

        Raises:
            StartupError: the settings are incomplete or unsafe; names the variable.
        """
        if settings.jwt_secret is None and settings.jwt_jwks_url is None:
            _refuse_leftovers(settings)
            return None
        if not settings.jwt_issuer:
            raise StartupError("PILOTHOUSE_AUTH_JWT_ISSUER is missing: say which `iss` tokens must carry.")
        if not settings.jwt_audience:
            raise StartupError("PILOTHOUSE_AUTH_JWT_AUDIENCE is missing: say which `aud` tokens must carry.")
        url = settings.jwt_jwks_url
        return cls(
            settings,
            secret=_secret(settings),
            keys=None
            if url is None
            else KeySet(_checked_url(url), longest_age_seconds=settings.jwks_max_age_seconds, monotonic=monotonic),
        )

    async def start(self) -> None:
        """Fetch the provider's keys, if there is one."""
        if self._keys is not None:
            await self._keys.start()

    async def close(self) -> None:
        """Let go of the connection to the provider."""
        if self._keys is not None:
            await self._keys.close()

    @property
    def failure(self) -> str | None:
        """Why the provider's keys could not be fetched the last time; None: they could, or there is no provider."""
        return None if self._keys is None else self._keys.failure

    def check(self) -> Check | None:
        """How the provider's keys are; None where tokens are checked with a shared secret only."""
        return None if self._keys is None else self._keys.check()

    async def authenticate(self, token: str) -> Principal:
        """The principal a token stands for.

        Raises:
            Unauthenticated: the token is malformed, forged, expired, or not meant for us.
            Unavailable: the provider's keys can't be fetched.
        """
        try:
            key, algorithm = await self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=self._settings.leeway_seconds,
                options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise unauthenticated(_sentence(error)) from None
        except (ValueError, RecursionError, OverflowError):  # content no claim check foresaw
            raise unauthenticated("The token is not valid.") from None
        return self._principal(token, claims)

    async def _key(self, header: dict[str, Any]) -> tuple[bytes | jwt.PyJWK, str]:
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secret is not None:
            return self._secret, "HS256"
        if isinstance(algorithm, str) and algorithm in ALGORITHMS and self._keys is not None:
            key = await self._keys.find(header.get("kid"), algorithm)
            if key is None:
                raise unauthenticated("The token is signed with a key the identity provider does not list.")
            return key, algorithm
        raise jwt.InvalidAlgorithmError

    def _principal(self, token: str, claims: dict[str, Any]) -> Principal:
        tenant = claims.get(self._settings.jwt_tenant_claim, _DEFAULT_TENANT)
        if not is_name(tenant, most=MOST_TENANT_CHARS):
            raise _bad_claim(self._settings.jwt_tenant_claim, MOST_TENANT_CHARS)
        subject = claims["sub"]
        if not is_name(subject, most=MOST_SUBJECT_CHARS):
            raise _bad_claim("sub", MOST_SUBJECT_CHARS)
        return Principal(
            tenant,
            subject,
            self._scopes(claims),
            "jwt",
            credential=_fingerprint(token),
            token_id=claims.get("jti") or None,
            expires_at=(min(int(claims["exp"]), _FAR_SECONDS) + self._settings.leeway_seconds) * 1000,
        )

    def _scopes(self, claims: dict[str, Any]) -> frozenset[str]:
        name = self._settings.jwt_scopes_claim
        if name not in claims:
            return USER_SCOPES
        given = claims[name]
        parts = cast("list[Any]", given.split(" ") if isinstance(given, str) else given)
        if not isinstance(given, str | list) or not all(isinstance(part, str) for part in parts):
            raise unauthenticated(f"The token's claim {name} has to be a text of spaced scopes, or a list of them.")
        if sum(map(len, parts)) > _MOST_SCOPES_CHARS:
            raise unauthenticated(f"The token's claim {name} is too long.")
        if any(map(has_unsafe, parts)):
            raise unauthenticated(
                f"The token's claim {name} holds control or invisible characters. Scopes are separated by spaces."
            )
        return frozenset(part for part in parts if part)


def _fingerprint(token: str) -> str:
    """Of what is signed: the signature's own Base64 can be written in several ways."""
    signed = token.rpartition(".")[0]
    return "jwt_" + hashlib.sha256(signed.encode()).hexdigest()[:32]


def _refuse_leftovers(settings: AuthSettings) -> None:
    for name in ("jwt_issuer", "jwt_audience"):
        if getattr(settings, name):
            raise StartupError(
                f"PILOTHOUSE_AUTH_{name.upper()} is set, but there is nothing to check tokens with. "
                "Set PILOTHOUSE_AUTH_JWT_SECRET or PILOTHOUSE_AUTH_JWT_JWKS_URL too."
            )


def _secret(settings: AuthSettings) -> bytes | None:
    if settings.jwt_secret is None:
        return None
    secret = settings.jwt_secret.get_secret_value().encode()
    if len(secret) < _FEWEST_SECRET_BYTES:
        raise StartupError(
            f"PILOTHOUSE_AUTH_JWT_SECRET has {len(secret)} bytes; HS256 needs {_FEWEST_SECRET_BYTES} or more. "
            "Make one with: openssl rand -base64 48"
        )
    return secret


def _checked_url(url: str) -> str:
    """Who can change the key set on its way can sign tokens, so it comes over TLS, or from this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if parts is None or not host or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))):
        raise StartupError(
            "PILOTHOUSE_AUTH_JWT_JWKS_URL has to be an https:// address; http:// is taken for this machine only "
            "(127.0.0.1, ::1, localhost)."
        )
    return url


def _sentence(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"The token lacks the claim {error.claim}."
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence
    return "The token is not valid."


def _bad_claim(name: str, most: int) -> Unauthenticated:
    return unauthenticated(
        f"The token's claim {name} has to be a text of 1 to {most} characters, without control or invisible ones."
    )
