"""SQL of the audit log. It is append-only: records are added, read, and dropped once they are too old."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from pilothouse.audit.record import Action, AuditRecord, Outcome
from pilothouse.audit.tables import audit_records
from pilothouse.kit.jsons import dumps, loads


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records. Times are milliseconds since the Unix epoch: from `since` on, before `until`.

    `tenant` only narrows what an operator sees; whose records a caller sees is never decided by it.
    """

    tenant: str | None = None
    action: Action | None = None
    outcome: Outcome | None = None
    subject: str | None = None
    credential: str | None = None
    since: int | None = None
    until: int | None = None


def insert_records(connection: Connection, records: Sequence[AuditRecord]) -> None:
    """Add records. One that is there already stays as it is: the answer to an earlier try to add it was lost."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(audit_records).on_conflict_do_nothing(index_elements=["id"])
    connection.execute(statement, [_values(record) for record in records])


def page(
    connection: Connection, tenant: str, *, wanted: Wanted, limit: int, before: tuple[int, str] | None
) -> list[AuditRecord]:
    """A tenant's records, newest first, at most `limit`, older than `before` (at, id)."""
    return _page(connection, select(audit_records).where(audit_records.c.tenant == tenant), wanted, limit, before)


def page_of_everything(
    connection: Connection, *, wanted: Wanted, limit: int, before: tuple[int, str] | None
) -> list[AuditRecord]:
    """As `page`, of all tenants and of nobody's: for operators, who can open the database."""
    return _page(connection, select(audit_records), wanted, limit, before)


def drop_old(connection: Connection, *, before: int, most: int) -> int:
    """Drop at most `most` records that began before a time, the oldest first. Returns how many."""
    old = (
        select(audit_records.c.id)
        .where(audit_records.c.at < before)
        .order_by(audit_records.c.at, audit_records.c.id)
        .limit(most)
    )
    return connection.execute(delete(audit_records).where(audit_records.c.id.in_(old))).rowcount


def _page(
    connection: Connection,
    query: Select[Any],
    wanted: Wanted,
    limit: int,
    before: tuple[int, str] | None,
) -> list[AuditRecord]:
    query = query.where(*_conditions(wanted))
    if before is not None:
        query = query.where(tuple_(audit_records.c.at, audit_records.c.id) < tuple_(*before))
    rows = connection.execute(query.order_by(audit_records.c.at.desc(), audit_records.c.id.desc()).limit(limit))
    return [_record(row) for row in rows.mappings()]


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    columns = audit_records.c
    found: list[ColumnElement[bool]] = []
    if wanted.tenant is not None:
        found.append(columns.tenant == wanted.tenant)
    if wanted.action is not None:
        found.append(columns.action == wanted.action)
    if wanted.outcome is not None:
        found.append(columns.outcome == wanted.outcome)
    if wanted.subject is not None:
        found.append(columns.subject == wanted.subject)
    if wanted.credential is not None:
        found.append(columns.credential == wanted.credential)
    if wanted.since is not None:
        found.append(columns.at >= wanted.since)
    if wanted.until is not None:
        found.append(columns.at < wanted.until)
    return found


def _values(record: AuditRecord) -> dict[str, Any]:
    return {**asdict(record), "detail": None if record.detail is None else dumps(record.detail)}


def _record(row: RowMapping) -> AuditRecord:
    values: dict[str, Any] = {str(name): value for name, value in row.items()}
    values["detail"] = None if values["detail"] is None else loads(values["detail"])
    return AuditRecord(**values)
