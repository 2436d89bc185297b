"""Audit records. There is no foreign key: a record outlives what it is about."""

from sqlalchemy import Column, Index, Integer, String, Table, Text

from pilothouse.db.metadata import Millis, metadata

audit_records = Table(
    "audit_records",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("at", Millis, nullable=False),
    Column("last_at", Millis, nullable=False),
    Column("tenant", String(128)),
    Column("subject", String(256)),
    Column("credential", String(64)),
    Column("action", String(32), nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("code", String(64)),
    Column("object_kind", String(32)),
    Column("object_id", String(256)),
    Column("detail", Text),
    Column("count", Integer, nullable=False),
    Column("request_id", String(128)),
    Column("client", String(64)),
    Column("user_agent", String(200)),
    Index("ix_audit_records_tenant", "tenant", "at", "id"),
    Index("ix_audit_records_at", "at"),
)
