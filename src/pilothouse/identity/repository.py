"""SQL of API keys. Every statement but the look-up by hash, which is how a caller becomes known, names the tenant."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, insert, or_, select, tuple_, update

from pilothouse.identity.tables import api_keys

_TOUCH_MS = 60_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret. Times are milliseconds since the Unix epoch."""

    id: str
    tenant: str
    owner: str
    name: str
    prefix: str
    secret_hash: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None

    def usable(self, now: int) -> bool:
        """Neither revoked nor expired at `now`."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


def insert_key(connection: Connection, key: ApiKey) -> None:
    """Store a new key."""
    values = {column.name: getattr(key, column.name) for column in api_keys.columns}
    connection.execute(insert(api_keys).values(**{**values, "scopes": list(key.scopes)}))


def key_by_hash(connection: Connection, secret_hash: str) -> ApiKey | None:
    """The key with this hash, usable or not."""
    row = connection.execute(select(api_keys).where(api_keys.c.secret_hash == secret_hash)).one_or_none()
    return _key(row) if row else None


def key_of(connection: Connection, tenant: str, key_id: str) -> ApiKey | None:
    """A tenant's key by its id, usable or not."""
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id, api_keys.c.tenant == tenant)).one_or_none()
    return _key(row) if row else None


def list_keys(
    connection: Connection, *, tenant: str, owner: str | None, limit: int, after: tuple[int, str] | None
) -> list[ApiKey]:
    """Newest first, at most `limit`, older than `after` (created_at, id); of one owner, or of the whole tenant."""
    query = select(api_keys).where(_reach(tenant, owner))
    if after is not None:
        query = query.where(tuple_(api_keys.c.created_at, api_keys.c.id) < tuple_(*after))
    rows = connection.execute(query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(limit))
    return [_key(row) for row in rows]


def revoke_key(connection: Connection, key_id: str, *, tenant: str, owner: str | None, now: int) -> ApiKey | None:
    """Mark as revoked, keeping the time of an earlier revocation. None where no such key is in reach."""
    mine = and_(api_keys.c.id == key_id, _reach(tenant, owner))
    connection.execute(update(api_keys).where(mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=now))
    row = connection.execute(select(api_keys).where(mine)).one_or_none()
    return _key(row) if row else None


def touch_key(connection: Connection, key: ApiKey, *, now: int) -> None:
    """Note that the key was used, unless any node noted it within the last minute."""
    last = api_keys.c.last_used_at
    connection.execute(
        update(api_keys)
        .where(
            api_keys.c.id == key.id,
            api_keys.c.tenant == key.tenant,
            or_(last.is_(None), last <= now - _TOUCH_MS),
        )
        .values(last_used_at=now)
    )


def any_usable_key(connection: Connection, *, now: int) -> bool:
    """Whether anybody could log in with a key."""
    usable = and_(api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))
    return bool(connection.execute(select(exists().where(usable))).scalar_one())


def _reach(tenant: str, owner: str | None) -> ColumnElement[bool]:
    mine = api_keys.c.tenant == tenant
    return mine if owner is None else and_(mine, api_keys.c.owner == owner)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        owner=row.owner,
        name=row.name,
        prefix=row.prefix,
        secret_hash=row.secret_hash,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
