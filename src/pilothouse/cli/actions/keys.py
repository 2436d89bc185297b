"""API keys, made and revoked by whoever can reach the database."""

import asyncio
import getpass
import os
from datetime import UTC, date, datetime, time
from typing import Any

from rich.table import Table

from pilothouse.audit.record import Action
from pilothouse.audit.service import Audit, operator_record
from pilothouse.cli.actions.database import configured_database
from pilothouse.cli.output import add_row, plain, say, show, show_json, show_table
from pilothouse.cli.spans import parse_span
from pilothouse.db import Database
from pilothouse.errors import InvalidRequest
from pilothouse.identity.keys import ApiKey, Keys
from pilothouse.identity.principal import USER_SCOPES, Principal
from pilothouse.kit.printable import one_line
from pilothouse.settings import load_settings

_PAGE = 100


def create_key(name: str, *, subject: str, tenant: str, scopes: str | None, expires: str | None) -> None:
    """Make a key: its token goes to stdout, everything else to stderr.

    Raises:
        InvalidRequest: a name, a scope or the expiry is wrong.
        StartupError: the database can't be used.
    """
    wanted = sorted(USER_SCOPES) if scopes is None else [scope.strip() for scope in scopes.split(",") if scope.strip()]
    expires_at = None if expires is None else parse_expiry(expires, datetime.now(UTC))
    key, token = asyncio.run(_create(_owner(tenant, subject), name, wanted, expires_at))
    until = f" until {_day(key.expires_at)}" if key.expires_at else ""
    say(f"Made key {key.id} for {subject} of tenant {tenant}{until}. It may: {', '.join(key.scopes)}.")
    say("This is its token. Keep it now; it can't be shown again:")
    show(token)


def list_keys(tenant: str, *, as_json: bool) -> None:
    """Print all keys of a tenant.

    Raises:
        StartupError: the database can't be used.
    """
    keys = asyncio.run(_list(_owner(tenant, "cli")))
    if as_json:
        show_json([_document(key) for key in keys])
        return
    if not keys:
        show(f"Tenant {plain(tenant)} has no keys.")
        return
    table = Table(
        "key", "name", "begins with", "subject", "scopes", "made with", "created", "expires", "last used", "state"
    )
    now = round(datetime.now(UTC).timestamp() * 1000)
    for key in keys:
        state = "revoked" if key.revoked_at else "usable" if key.usable(now) else "expired"
        days = [_day(at) for at in (key.created_at, key.expires_at, key.last_used_at)]
        add_row(
            table,
            key.id,
            one_line(key.name),
            key.prefix,
            one_line(key.owner),
            ", ".join(key.scopes),
            key.parent_id or "",
            *days,
            state,
        )
    show_table(table)


def revoke_key(key_id: str, *, tenant: str) -> None:
    """Revoke a key of a tenant, and all that were made with it.

    Raises:
        NotFound: the tenant has no such key.
        StartupError: the database can't be used.
    """
    key = asyncio.run(_revoke(_owner(tenant, "cli"), key_id))
    show(
        f"Revoked key {key.id} ({plain(key.name)}) and what was made with it. Running servers refuse it within five "
        "seconds."
    )


def parse_expiry(text: str, now: datetime) -> datetime:
    """The moment that `12h`, `90d`, `2w`, `1y` or a date names; a date ends with its last second, in UTC.

    Raises:
        InvalidRequest: it is none of these.
    """
    span = parse_span(text)
    try:
        if span is not None:
            return now + span
        return datetime.combine(date.fromisoformat(text.strip()), time(23, 59, 59), UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{text!r} is no expiry. Write 12h, 90d, 2w, 1y, or a date as 2030-01-31.") from None


async def _create(maker: Principal, name: str, scopes: list[str], expires_at: datetime | None) -> tuple[ApiKey, str]:
    async with configured_database(load_settings()) as database:
        key, token = await Keys(database).create(maker, name, scopes=scopes, expires_at=expires_at)
        await _record(database, "key.created", key)
        return key, token


async def _list(reader: Principal) -> list[ApiKey]:
    found: list[ApiKey] = []
    async with configured_database(load_settings()) as database:
        keys = Keys(database)
        page = await keys.page(reader, limit=_PAGE, everyone=True)
        found.extend(page)
        while len(page) == _PAGE:
            page = await keys.page(reader, limit=_PAGE, after=(page[-1].created_at, page[-1].id), everyone=True)
            found.extend(page)
    return found


async def _revoke(revoker: Principal, key_id: str) -> ApiKey:
    async with configured_database(load_settings()) as database:
        key = await Keys(database).revoke(revoker, key_id)
        await _record(database, "key.revoked", key)
        return key


async def _record(database: Database, action: Action, key: ApiKey) -> None:
    audit = Audit(database)
    await audit.record(
        operator_record(action, tenant=key.tenant, object_kind="key", object_id=key.id, user=_user_name())
    )
    await audit.close()


def _user_name() -> str:
    """Who runs the command, as the machine knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have a number only
        return str(os.getuid())


def _owner(tenant: str, subject: str) -> Principal:
    """Whoever can open the database may do everything in it."""
    return Principal(tenant, subject, frozenset({"*"}), "local")


def _document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "subject": key.owner,
        "name": key.name,
        "prefix": key.prefix,
        "parent_id": key.parent_id,
        "scopes": list(key.scopes),
        **{name: _iso(getattr(key, name)) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")},
    }


def _iso(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def _day(milliseconds: int | None) -> str:
    return (_iso(milliseconds) or "")[:10]
