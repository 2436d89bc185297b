"""The one `MetaData` all tables hang on, and column types they share."""

from sqlalchemy import BigInteger, Integer, MetaData

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Millis = BigInteger
"""Milliseconds since the Unix epoch, UTC."""

NanoUsd = BigInteger
"""Money: integer billionths of a US dollar."""

RowId = BigInteger().with_variant(Integer, "sqlite")
"""A growing integer key (SQLite grows only INTEGER keys by itself)."""
