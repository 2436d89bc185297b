"""API keys. The secret itself is never stored, only its hash."""

from sqlalchemy import JSON, Column, Index, String, Table, Text

from pilothouse.db.metadata import Millis, metadata

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("owner", String(256), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Millis, nullable=False),
    Column("expires_at", Millis),
    Column("revoked_at", Millis),
    Column("last_used_at", Millis),
    Column("parent_id", String(40)),
    Index("ix_api_keys_owner", "tenant", "owner", "created_at"),
    Index("ix_api_keys_parent", "parent_id"),
)
