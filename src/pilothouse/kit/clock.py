"""Wall-clock time as the database stores it."""

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def to_datetime(milliseconds: int) -> datetime:
    """An aware UTC datetime for stored milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
