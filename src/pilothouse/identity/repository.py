"""SQL of API keys. Every statement names the tenant but the look-up by hash, which is how a caller becomes known, and
those for operators, who can open the database.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, Connection, Row, Select, and_, exists, insert, or_, select, tuple_, update

from pilothouse.identity.tables import api_keys

TOUCH_MS = 60_000
"""Between two notes that a key was used."""

_IDS_A_QUERY = 500


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret. Times are milliseconds since the Unix epoch.

    Args:
        parent_id: the key it was made with, if it was one.
    """

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
    parent_id: str | None = None

    def usable(self, now: int) -> bool:
        """Neither revoked nor expired at `now`."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


def insert_key(connection: Connection, key: ApiKey) -> None:
    """Store a new key."""
    values = {column.name: getattr(key, column.name) for column in api_keys.columns}
    connection.execute(insert(api_keys).values(**{**values, "scopes": list(key.scopes)}))


def hold_key(connection: Connection, key_id: str, *, tenant: str) -> ApiKey | None:
    """A key, which nobody can revoke before this transaction has ended."""
    mine = and_(api_keys.c.id == key_id, api_keys.c.tenant == tenant)
    row = connection.execute(select(api_keys).where(mine).with_for_update(read=True)).one_or_none()
    return _key(row) if row else None


def usable_ids(connection: Connection, key_ids: Sequence[str], *, now: int) -> set[str]:
    """Those of these keys that are neither revoked nor expired. Of all tenants: it only closes doors."""
    found: set[str] = set()
    for start in range(0, len(key_ids), _IDS_A_QUERY):
        chunk = api_keys.c.id.in_(key_ids[start : start + _IDS_A_QUERY])
        found.update(connection.execute(select(api_keys.c.id).where(chunk, _usable(now))).scalars())
    return found


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
    return _page(connection, select(api_keys).where(_reach(tenant, owner)), limit=limit, after=after)


def list_everyones_keys(
    connection: Connection, *, tenant: str | None, limit: int, after: tuple[int, str] | None
) -> list[ApiKey]:
    """For operators: as `list_keys`, of one tenant or of all."""
    query = select(api_keys)
    if tenant is not None:
        query = query.where(api_keys.c.tenant == tenant)
    return _page(connection, query, limit=limit, after=after)


def _page(connection: Connection, query: Select[Any], *, limit: int, after: tuple[int, str] | None) -> list[ApiKey]:
    if after is not None:
        query = query.where(tuple_(api_keys.c.created_at, api_keys.c.id) < tuple_(*after))
    rows = connection.execute(query.order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(limit))
    return [_key(row) for row in rows]


def find_keys(connection: Connection, *, key_id: str, prefix: str, most: int) -> list[ApiKey]:
    """For operators: the keys of any tenant with this id, or whose tokens begin so; at most `most`."""
    query = select(api_keys).where(or_(api_keys.c.id == key_id, api_keys.c.prefix == prefix))
    return [_key(row) for row in connection.execute(query.order_by(api_keys.c.id).limit(most))]


def revoke_tree(connection: Connection, key_id: str, *, tenant: str, owner: str | None, now: int) -> list[ApiKey]:
    """Mark a key and all that were made with it, and with those, as revoked; earlier revocations keep their time.

    Returns:
        The key first, then the others; nothing where no such key is in reach.
    """
    tree = _tree(and_(api_keys.c.id == key_id, _reach(tenant, owner)), tenant)
    # A key that is being made holds its parent. Either it is committed before we get the parent's row, and the next
    # round sees it; or its maker finds the parent revoked. So no key is left when a round finds none.
    while ids := _lock_unrevoked(connection, tree):
        for start in range(0, len(ids), _IDS_A_QUERY):
            chunk = api_keys.c.id.in_(ids[start : start + _IDS_A_QUERY])
            connection.execute(update(api_keys).where(chunk).values(revoked_at=now))
    rows = connection.execute(select(api_keys).where(api_keys.c.id.in_(select(tree.c.id))))
    return sorted((_key(row) for row in rows), key=lambda key: key.id != key_id)


def touch_key(connection: Connection, key: ApiKey, *, now: int) -> None:
    """Note that the key was used, unless any node noted it within the last minute."""
    last = api_keys.c.last_used_at
    connection.execute(
        update(api_keys)
        .where(
            api_keys.c.id == key.id,
            api_keys.c.tenant == key.tenant,
            or_(last.is_(None), last <= now - TOUCH_MS),
        )
        .values(last_used_at=now)
    )


def any_usable_key(connection: Connection, *, now: int) -> bool:
    """Whether anybody could log in with a key."""
    return bool(connection.execute(select(exists().where(_usable(now)))).scalar_one())


def _tree(root: ColumnElement[bool], tenant: str) -> CTE:
    tree = select(api_keys.c.id).where(root).cte("tree", recursive=True)
    made = select(api_keys.c.id).where(api_keys.c.parent_id == tree.c.id, api_keys.c.tenant == tenant)
    return tree.union(made)


def _lock_unrevoked(connection: Connection, tree: CTE) -> list[str]:
    """In one order for everybody, so that two revocations that meet wait for each other and don't deadlock."""
    unrevoked = select(api_keys.c.id).where(api_keys.c.id.in_(select(tree.c.id)), api_keys.c.revoked_at.is_(None))
    ordered = unrevoked.order_by(api_keys.c.created_at, api_keys.c.id)
    return list(connection.execute(ordered.with_for_update(of=api_keys)).scalars())


def _usable(now: int) -> ColumnElement[bool]:
    return and_(api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))


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
        parent_id=row.parent_id,
    )
