"""A clock that a test turns."""

from datetime import UTC, datetime


class Clock:
    """Time that stands still until it is turned."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    def turn(self, *, seconds: float) -> None:
        self.ms += int(seconds * 1000)

    def at(self, *, seconds: float) -> datetime:
        return datetime.fromtimestamp(self.ms / 1000 + seconds, UTC)
