"""The public keys of an identity provider, fetched from its JWKS address (RFC 7517)."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
from jwt import PyJWK, PyJWTError

from pilothouse.errors import Unavailable
from pilothouse.kit.health import Check
from pilothouse.kit.jsons import loads
from pilothouse.observability.logs import get_logger

ALGORITHMS = frozenset({"RS256", "ES256"})

_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 1_048_576
_FRESH_SECONDS = 600.0
_BETWEEN_SECONDS = 30.0
_RETRY_SECONDS = 5.0

log = get_logger(__name__)


@dataclass(frozen=True)
class _Fetched:
    keys: tuple[PyJWK, ...] = ()
    at: float = float("-inf")


@dataclass
class _Tried:
    at: float = float("-inf")
    failed: bool = field(default=True)
    reason: str | None = None


class KeySet:
    """Keys by id. Fetched anew every ten minutes, and for an unknown id at most every 30 seconds; while the address is
    away, the keys last fetched stay good for a time: a key that was withdrawn meanwhile must not be good for ever.

    Args:
        longest_age_seconds: how long keys are trusted after they were fetched.
        monotonic: seconds that never go back.
    """

    def __init__(
        self, url: str, *, longest_age_seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._longest_age = longest_age_seconds
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None
        self._fetched = _Fetched()
        self._tried = _Tried()
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch the keys ahead of the first caller. A provider that is away is only logged."""
        await self._refresh(self._monotonic())

    async def close(self) -> None:
        """Let go of the connection."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    @property
    def failure(self) -> str | None:
        """Why the keys could not be fetched the last time; None: they could."""
        return self._tried.reason

    def check(self) -> Check:
        """How the keys are, for readiness."""
        age = max(self._monotonic() - self._fetched.at, 0.0) if self._fetched.keys else 0.0
        reason = None
        if self._tried.failed and (not self._fetched.keys or age > self._longest_age):
            reason = "The identity provider's keys can't be fetched: the JWTs they sign get a 503."
        elif self._tried.failed:
            reason = f"The identity provider's keys can't be fetched; those fetched {age:.0f} s ago are used."
        return Check("identity-provider", ok=reason is None, age_seconds=age, reason=reason)

    async def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key a token names, for that algorithm only; a token that names none is matched if just one key fits.

        Returns:
            None where the provider has no such key.

        Raises:
            Unavailable: the key is not known here and the provider can't be asked.
        """
        now = self._monotonic()
        self._drop_old(now)
        key = self._look(kid, algorithm)
        if key is not None:
            if now - self._fetched.at >= _FRESH_SECONDS:
                self._refresh_behind(now)
            return key
        if self._may_ask(now):
            await self._refresh(now)
            key = self._look(kid, algorithm)
        if key is None and self._tried.failed:
            raise Unavailable(
                "The identity provider's keys can't be fetched right now, so the token can't be checked. "
                "Try again shortly.",
                code="identity_provider_unavailable",
                headers={"Retry-After": str(int(_RETRY_SECONDS))},
            )
        return key

    def _drop_old(self, now: float) -> None:
        age = now - self._fetched.at
        if self._fetched.keys and age > self._longest_age:
            log.error("jwks_too_old", url=self._url, age_seconds=round(age), meaning="its tokens are refused with 503")
            self._fetched = _Fetched()

    def _look(self, kid: str | None, algorithm: str) -> PyJWK | None:
        fitting = [
            key for key in self._fetched.keys if key.algorithm_name == algorithm and (kid is None or key.key_id == kid)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _may_ask(self, now: float) -> bool:
        pause = _RETRY_SECONDS if self._tried.failed else _BETWEEN_SECONDS
        return self._lock.locked() or now - self._tried.at >= pause

    def _refresh_behind(self, now: float) -> None:
        if self._may_ask(now) and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh(now))

    async def _refresh(self, asked_at: float) -> None:
        async with self._lock:
            if self._tried.at >= asked_at:
                return  # another caller asked while we waited for the lock
            try:
                keys = await self._fetch()
                self._fetched = _Fetched(keys, self._monotonic())
                self._tried = _Tried(self._monotonic(), failed=False)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}"[:200]
                self._tried = _Tried(self._monotonic(), failed=True, reason=reason)
                log.warning("jwks_fetch_failed", url=self._url, reason=reason)

    async def _fetch(self) -> tuple[PyJWK, ...]:
        if self._session is None:
            # Bytes are counted as they come: a compressed answer could grow far beyond the limit in one piece.
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"answered {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(65_536):
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ValueError("the key set is larger than 1 MiB")
        return usable_keys(loads(bytes(body)))


def usable_keys(document: Any) -> tuple[PyJWK, ...]:
    """The RS256 and ES256 signing keys of a key set; others, too short ones and broken ones are left out.

    Raises:
        ValueError: this is no key set, or holds no usable key.
    """
    entries = cast("dict[str, Any]", document).get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("this is not a key set")  # noqa: TRY004 - the content is wrong, not a type of ours
    found = tuple(key for entry in cast("list[Any]", entries) if (key := _usable(entry)) is not None)
    if not found:
        raise ValueError("the key set holds no RS256 or ES256 signing key")
    return found


def _usable(entry: Any) -> PyJWK | None:
    try:
        key = PyJWK(entry)
    except (PyJWTError, AttributeError, TypeError, ValueError):
        return None
    if key.algorithm_name not in ALGORITHMS or key.public_key_use not in {None, "sig"}:
        return None
    return None if key.Algorithm.check_key_length(key.key) else key
