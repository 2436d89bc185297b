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
from pilothouse.errors import InvalidRequest, NotFound
from pilothouse.identity.keys import ApiKey, Keys
from pilothouse.identity.principal import USER_SCOPES, Principal
from pilothouse.kit.printable import one_line
from pilothouse.settings import load_settings

_PAGE = 100
_MOST_NAMED = 20


def create_key(name: str, *, subject: str, tenant: str, scopes: str | None, expires: str | None) -> None:
    """Make a key: its token goes to stdout, everything else to stderr.

    Raises:
        InvalidRequest: a name, a scope or the expiry is wrong.
        StartupError: the database can't be used.
    """
    wanted = sorted(USER_SCOPES) if scopes is None else scopes.replace(",", " ").split()
    if not wanted:
        raise InvalidRequest("Name at least one scope, separated by commas or spaces: --scopes chat,runs:read.")
    expires_at = None if expires is None else parse_expiry(expires, datetime.now(UTC))
    key, token = asyncio.run(_create(_owner(tenant, subject), name, wanted, expires_at))
    until = f" until {_day(key.expires_at)}" if key.expires_at else ""
    say(f"Made key {key.id} for {subject} of tenant {tenant}{until}. It may: {', '.join(key.scopes)}.")
    say("This is its token. Keep it now; it can't be shown again:")
    show(token)


def list_keys(tenant: str | None, *, as_json: bool) -> None:
    """Print all keys, or those of one tenant.

    Raises:
        StartupError: the database can't be used.
    """
    keys = asyncio.run(_list(tenant))
    if as_json:
        show_json([_document(key) for key in keys])
        return
    if not keys:
        show("There are no keys." if tenant is None else f"Tenant {plain(tenant)} has no keys.")
        return
    table = Table(
        "key",
        "tenant",
        "subject",
        "name",
        "begins with",
        "scopes",
        "made with",
        "created",
        "expires",
        "last used",
        "state",
    )
    now = round(datetime.now(UTC).timestamp() * 1000)
    for key in keys:
        state = "revoked" if key.revoked_at else "usable" if key.usable(now) else "expired"
        days = [_day(at) for at in (key.created_at, key.expires_at, key.last_used_at)]
        add_row(
            table,
            key.id,
            one_line(key.tenant),
            one_line(key.owner),
            one_line(key.name),
            key.prefix,
            ", ".join(key.scopes),
            key.parent_id or "",
            *days,
            state,
        )
    show_table(table)


def revoke_key(name: str, *, tenant: str | None) -> None:
    """Revoke a key, and all that were made with it.

    Args:
        name: its id, or how its token begins.
        tenant: only if it is this one's.

    Raises:
        InvalidRequest: tokens of several keys begin so.
        NotFound: there is no such key.
        StartupError: the database can't be used.
    """
    key = asyncio.run(_revoke(name, tenant))
    show(
        f"Revoked key {key.id} ({plain(key.name)}) of {plain(key.owner)}, tenant {plain(key.tenant)}, and what was "
        "made with it. Running servers refuse it within five seconds."
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


async def _list(tenant: str | None) -> list[ApiKey]:
    found: list[ApiKey] = []
    async with configured_database(load_settings()) as database:
        keys = Keys(database)
        page = await keys.page_of_everyone(tenant, limit=_PAGE)
        found.extend(page)
        while len(page) == _PAGE:
            page = await keys.page_of_everyone(tenant, limit=_PAGE, after=(page[-1].created_at, page[-1].id))
            found.extend(page)
    return found


async def _revoke(name: str, tenant: str | None) -> ApiKey:
    async with configured_database(load_settings()) as database:
        keys = Keys(database)
        found = await keys.find(name, most=_MOST_NAMED)
        found = [key for key in found if tenant in {None, key.tenant}]
        if not found:
            raise NotFound("There is no such key. `pilothouse keys list` shows all of them.")
        if len(found) > 1:
            ids = ", ".join(key.id for key in found)
            raise InvalidRequest(f"The tokens of several keys begin so. Name one of them by its id: {ids}.")
        key = await keys.revoke(_owner(found[0].tenant, "cli"), found[0].id)
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
