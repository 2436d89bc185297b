"""API keys: make, list, revoke, and recognise them.

A key is `ph_<8 characters, shown in lists>_<43 characters of secret>`. The secret is 256 random bits, so it is stored
as one SHA-256: slow hashes such as bcrypt protect secrets that can be guessed, which these can't, and would cost every
request tens of milliseconds.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection

from pilothouse.db import Database
from pilothouse.errors import Forbidden, InvalidRequest, NotFound
from pilothouse.identity import repository
from pilothouse.identity.principal import (
    MOST_KEY_NAME_CHARS,
    MOST_SCOPES,
    MOST_SUBJECT_CHARS,
    MOST_TENANT_CHARS,
    SCOPE_PATTERN,
    Principal,
    is_name,
    sorted_scopes,
)
from pilothouse.identity.problems import unauthenticated
from pilothouse.identity.repository import ApiKey
from pilothouse.kit.clock import now_ms, to_datetime
from pilothouse.kit.ids import new_id
from pilothouse.observability.logs import get_logger

__all__ = ["ApiKey", "Keys", "is_api_key"]

_TOKEN = re.compile(r"ph_[0-9a-z]{8}_[A-Za-z0-9_-]{43}")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PREFIX_CHARS = len("ph_") + 8
_MOST_TOKEN_CHARS = 100
_FRESH_SECONDS = 5.0
_MOST_CACHED = 4096
_FAR_MS = 253_402_300_799_000  # the end of the year 9999, the last a datetime can say

_log = get_logger(__name__)


def is_api_key(token: str) -> bool:
    """Whether this wants to be an API key rather than a JWT."""
    return token.startswith("ph_")


class Keys:
    """The API keys of one database.

    What was read of a key is trusted for at most five seconds, so that a revocation on another node holds here within
    five seconds; one on this node holds at once.

    Args:
        clock: milliseconds since the Unix epoch.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._revocations = 0
        self._touched: OrderedDict[str, int] = OrderedDict()
        self._touching: set[asyncio.Task[None]] = set()

    async def create(
        self, principal: Principal, name: str, *, scopes: Iterable[str], expires_at: datetime | None = None
    ) -> tuple[ApiKey, str]:
        """Make a key for `principal`, who needs `keys:write`.

        It expires no later than the credential it is made with, and at the same time unless said otherwise. If it is
        made with a key, it is revoked together with that one.

        Returns:
            The key's record, and the token itself, which can't be had again.

        Raises:
            Forbidden: a scope is one the maker lacks.
            InvalidRequest: the name, a scope's spelling or the expiry is wrong.
            Unauthenticated: the maker's credential has been revoked or has expired meanwhile.
        """
        wanted = self.check(principal, name, scopes=scopes)
        now = self._clock()
        prefix = "ph_" + "".join(secrets.choice(_ALPHABET) for _ in range(8))
        token = f"{prefix}_{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=new_id("key"),
            tenant=principal.tenant,
            owner=principal.subject,
            name=name,
            prefix=prefix,
            secret_hash=_hash(token),
            scopes=tuple(wanted),
            created_at=now,
            expires_at=_expiry(expires_at, now),
            revoked_at=None,
            last_used_at=None,
            parent_id=principal.key_id,
        )
        return await self._database.write(_insert, key, latest=principal.expires_at), token

    def check(self, principal: Principal, name: str, *, scopes: Iterable[str]) -> list[str]:
        """See that `principal` may make such a key. Returns its scopes as they are stored.

        Raises:
            Forbidden: the maker lacks `keys:write`, or a scope the key is to have.
            InvalidRequest: the name or a scope's spelling is wrong.
        """
        principal.require("keys:write")
        wanted = sorted_scopes(scopes)
        _check_wording(principal, name, wanted)
        _check_reach(principal, wanted)
        return wanted

    async def page(
        self, principal: Principal, *, limit: int, after: tuple[int, str] | None = None, everyone: bool = False
    ) -> list[ApiKey]:
        """The caller's keys, newest first, at most `limit`, after the (created_at, id) of the last one seen.

        Needs `keys:read`; for the keys of `everyone` in the tenant, `admin`.
        """
        principal.require("admin" if everyone else "keys:read")
        owner = None if everyone else principal.subject
        return await self._database.read(
            repository.list_keys, tenant=principal.tenant, owner=owner, limit=limit, after=after
        )

    async def page_of_everyone(
        self, tenant: str | None, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[ApiKey]:
        """For commands of operators, who can open the database anyway: as `page`, of one tenant or (None) of all."""
        return await self._database.read(repository.list_everyones_keys, tenant=tenant, limit=limit, after=after)

    async def find(self, name: str, *, most: int) -> list[ApiKey]:
        """For commands of operators: the keys with this id, or whose tokens begin as this one does, of any tenant."""
        if not is_name(name, most=_MOST_TOKEN_CHARS):
            return []
        return await self._database.read(repository.find_keys, key_id=name, prefix=name[:_PREFIX_CHARS], most=most)

    async def revoke(self, principal: Principal, key_id: str) -> ApiKey:
        """Revoke one's own key (needs `keys:write`), or as `admin` anyone's in the tenant. Again changes nothing.

        The keys that were made with it are revoked with it, and those made with these.

        Raises:
            NotFound: there is no such key, or it is someone else's.
        """
        admin = principal.has("admin")
        if not admin:
            principal.require("keys:write")
        owner = None if admin else principal.subject
        tree: list[ApiKey] = []
        if is_name(key_id, most=40):
            tree = await self._database.write(
                repository.revoke_tree, key_id, tenant=principal.tenant, owner=owner, now=self._clock()
            )
        if not tree:
            raise NotFound("There is no such API key among yours. List them with GET /v1/keys.")
        self._revocations += 1
        for key in tree:
            self._known.pop(key.secret_hash, None)
        return tree[0]

    async def authenticate(self, token: str) -> Principal:
        """The principal this key stands for.

        Raises:
            Unauthenticated: no key of ours, expired, or revoked.
            Unavailable: the database is away and the key was not seen within the last seconds.
        """
        if not _TOKEN.fullmatch(token):
            raise unauthenticated("This is not an API key of this server. Check that it was copied whole.")
        key = await self._find(_hash(token))
        now = self._clock()
        if key is None:
            raise unauthenticated("This is not an API key of this server. Check that it was copied whole.")
        if key.revoked_at is not None:
            raise unauthenticated("This API key has been revoked. Use another one.")
        if not key.usable(now):
            raise unauthenticated("This API key has expired. Make a new one.")
        self._touch(key, now)
        return Principal(
            key.tenant,
            key.owner,
            frozenset(key.scopes),
            "api_key",
            key.id,
            credential=key.id,
            expires_at=key.expires_at,
        )

    async def usable(self, key_ids: Sequence[str]) -> set[str]:
        """Those of these keys that are neither revoked nor expired, as the database has them now.

        The others are refused here from now on.

        Raises:
            Unavailable: the database is away.
        """
        usable = await self._database.read(repository.usable_ids, key_ids, now=self._clock())
        gone = set(key_ids) - usable
        if gone:
            self._revocations += 1
            for secret_hash in [known for known, (_, key) in self._known.items() if key.id in gone]:
                del self._known[secret_hash]
        return usable

    async def lapsed(self, tenant: str, key_id: str) -> Literal["expired", "revoked"] | None:
        """Why a key that was good once is no longer; None: it is. Asks the database, so that it holds at once."""
        key = await self._database.read(repository.key_of, tenant, key_id)
        if key is None or key.revoked_at is not None:
            return "revoked"
        return None if key.usable(self._clock()) else "expired"

    async def any_usable(self) -> bool:
        """Whether anybody could log in with a key."""
        return await self._database.read(repository.any_usable_key, now=self._clock())

    async def close(self) -> None:
        """Finish writing when keys were used."""
        await asyncio.gather(*self._touching)

    async def _find(self, secret_hash: str) -> ApiKey | None:
        asked_at = self._monotonic()
        read_at, key = self._known.get(secret_hash, (None, None))
        if read_at is not None and asked_at - read_at < _FRESH_SECONDS:
            self._known.move_to_end(secret_hash)
            return key
        revocations = self._revocations
        key = await self._database.read(repository.key_by_hash, secret_hash)
        if key is None or not hmac.compare_digest(key.secret_hash, secret_hash):
            return None
        if revocations == self._revocations:  # else what was read may be from before a revocation here
            self._known[secret_hash] = (asked_at, key)
            self._known.move_to_end(secret_hash)
            if len(self._known) > _MOST_CACHED:
                self._known.popitem(last=False)
        return key

    def _touch(self, key: ApiKey, now: int) -> None:
        last = max(key.last_used_at or 0, self._touched.get(key.id, 0))
        if now - last < repository.TOUCH_MS:
            return
        self._touched[key.id] = now
        self._touched.move_to_end(key.id)
        if len(self._touched) > _MOST_CACHED:
            self._touched.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._write_touch(key, now))
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)

    async def _write_touch(self, key: ApiKey, now: int) -> None:
        try:
            await self._database.write(repository.touch_key, key, now=now)
        except Exception as error:  # noqa: BLE001 - a date for people; no request may fail over it
            _log.warning("key_use_not_noted", key_id=key.id, reason=type(error).__name__)


def _insert(connection: Connection, key: ApiKey, *, latest: int | None) -> ApiKey:
    """Store a key. The one it is made with can't be revoked before this is committed, nor this be stored after it."""
    if key.parent_id is not None:
        parent = repository.hold_key(connection, key.parent_id, tenant=key.tenant)
        if parent is None or not parent.usable(key.created_at):
            raise unauthenticated("The API key this was asked with has been revoked or has expired. Use another one.")
        latest = parent.expires_at
    key = replace(key, expires_at=_bounded(key.expires_at, latest, now=key.created_at))
    repository.insert_key(connection, key)
    return key


def _bounded(wanted: int | None, latest: int | None, *, now: int) -> int | None:
    """When a key expires whose maker's credential expires at `latest`."""
    if latest is None or (wanted is not None and wanted <= latest):
        return wanted
    if latest <= now:
        raise unauthenticated("The credential this was asked with has expired. Get a new one.")
    if wanted is None:
        return min(latest, _FAR_MS)
    until = to_datetime(latest).isoformat()
    raise InvalidRequest(
        f"expires_at can be {until} at most: then the credential expires that the key is made with. Ask for less, or "
        "make the key with one that lasts longer (an operator: pilothouse keys create).",
        code="expiry_too_late",
        latest=until,
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _check_wording(principal: Principal, name: str, scopes: list[str]) -> None:
    if not is_name(name, most=MOST_KEY_NAME_CHARS) or not name.strip():
        raise InvalidRequest(
            f"A key's name has 1 to {MOST_KEY_NAME_CHARS} characters, without control or invisible ones."
        )
    if not 1 <= len(scopes) <= MOST_SCOPES:
        raise InvalidRequest(f"Give the key 1 to {MOST_SCOPES} scopes.")
    for scope in scopes:
        if not re.fullmatch(SCOPE_PATTERN, scope):
            raise InvalidRequest(f"{scope[:80]!r} is not a scope. Scopes look like chat, runs:read or runs:*.")
    owner = is_name(principal.subject, most=MOST_SUBJECT_CHARS)
    if not owner or not is_name(principal.tenant, most=MOST_TENANT_CHARS):
        raise InvalidRequest(
            f"A tenant's name has at most {MOST_TENANT_CHARS} characters and a subject's {MOST_SUBJECT_CHARS}, "
            "without control or invisible ones."
        )


def _check_reach(maker: Principal, scopes: list[str]) -> None:
    for scope in scopes:
        if not maker.has(scope):
            raise Forbidden(
                f"You can't give a key the scope {scope}, because your own token does not have it.",
                code="missing_scope",
                missing_scope=scope,
            )


def _expiry(expires_at: datetime | None, now: int) -> int | None:
    if expires_at is None:
        return None
    if expires_at.tzinfo is None:
        raise InvalidRequest("expires_at needs its offset from UTC, as in 2030-01-31T00:00:00Z.")
    milliseconds = int(expires_at.timestamp() * 1000)
    if not now < milliseconds <= _FAR_MS:
        raise InvalidRequest("expires_at has to lie in the future.")
    return milliseconds
