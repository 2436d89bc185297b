"""What idempotency keys stand for."""

from sqlalchemy import Column, PrimaryKeyConstraint, String, Table, Text

from pilothouse.db.metadata import Millis, metadata

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("key", String(255), nullable=False),
    Column("route", String(64), nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("resource_id", String(40), nullable=False),
    Column("response", Text),
    Column("created_at", Millis, nullable=False),
    PrimaryKeyConstraint("tenant", "owner", "key"),
)
