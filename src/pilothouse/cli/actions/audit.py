"""The audit log, for whoever can reach the database."""

import asyncio
from datetime import UTC, datetime
from typing import cast, get_args

from rich.table import Table

from pilothouse.audit.record import Action, AuditRecord
from pilothouse.audit.schemas import AuditEntry
from pilothouse.audit.service import Audit, Wanted
from pilothouse.cli.actions.database import configured_database
from pilothouse.cli.output import add_row, show, show_json, show_table
from pilothouse.cli.spans import SPANS, parse_span
from pilothouse.errors import InvalidRequest
from pilothouse.kit.clock import to_datetime
from pilothouse.settings import load_settings

_PAGE = 500


def show_audit(
    *,
    tenant: str | None,
    action: str | None,
    subject: str | None,
    credential: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print records, newest first.

    Raises:
        InvalidRequest: there is no such action, or `since` is no span of time.
        StartupError: the database can't be used.
    """
    if action is not None and action not in get_args(Action):
        raise InvalidRequest(f"There is no action {action!r}. There are: {', '.join(get_args(Action))}.")
    wanted = Wanted(
        tenant=tenant,
        action=cast("Action | None", action),
        subject=subject,
        credential=credential,
        since=None if since is None else _since(since),
    )
    records = asyncio.run(_read(wanted, limit))
    if as_json:
        show_json([AuditEntry.of(record).model_dump(mode="json") for record in records])
        return
    if not records:
        show("There are no such records.")
        return
    table = Table("time", "tenant", "subject", "credential", "action", "outcome", "object", "count", "from")
    for record in records:
        add_row(table, *_cells(record))
    show_table(table)


def _cells(record: AuditRecord) -> list[str]:
    outcome = record.outcome if record.code is None else f"{record.outcome} ({record.code})"
    return [
        to_datetime(record.at).strftime("%Y-%m-%d %H:%M:%S"),
        record.tenant or "",
        record.subject or "",
        record.credential or "",
        record.action,
        outcome,
        record.object_id or "",
        str(record.count),
        record.client or "",
    ]


async def _read(wanted: Wanted, limit: int) -> list[AuditRecord]:
    found: list[AuditRecord] = []
    async with configured_database(load_settings()) as database:
        audit = Audit(database)
        while len(found) < limit:
            before = (found[-1].at, found[-1].id) if found else None
            most = min(_PAGE, limit - len(found))
            page = await audit.page_of_everything(wanted=wanted, limit=most, before=before)
            found.extend(page)
            if len(page) < most:
                break
    return found


def _since(text: str) -> int:
    span = parse_span(text)
    try:
        if span is not None:
            return round((datetime.now(UTC) - span).timestamp() * 1000)
    except OverflowError:  # before the year 1
        pass
    raise InvalidRequest(f"{text!r} is no span of time. Write {SPANS}.")
