"""Which processes are alive."""

from sqlalchemy import Column, Integer, String, Table

from pilothouse.db.metadata import Millis, metadata

leases = Table(
    "leases",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Millis, nullable=False),
    Column("expires_at", Millis, nullable=False),
)
