"""Wall-clock time as the database stores it."""

import time
from datetime import UTC, datetime

_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux; its monotonic clock stands still in suspend


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def to_datetime(milliseconds: int) -> datetime:
    """An aware UTC datetime for stored milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def steady_seconds() -> float:
    """Seconds that never go back and go on while the machine is suspended, if the system has such a clock."""
    return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)
