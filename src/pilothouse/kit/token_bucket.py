"""How often something may happen."""

import time
from collections.abc import Callable


class TokenBucket:
    """Grows by `per_second` tokens a second up to `burst`; what happens takes some.

    Args:
        clock: seconds that never go back.
    """

    __slots__ = ("_at", "_burst", "_clock", "_per_second", "_tokens")

    def __init__(self, per_second: float, *, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._at = clock()

    def take(self, tokens: float = 1.0) -> float:
        """Take this many, or none if there are fewer; more than `burst` count as `burst`.

        Returns:
            0 if they were taken, else the seconds until there are enough.
        """
        self._grow()
        wanted = min(tokens, self._burst)
        if self._tokens >= wanted:
            self._tokens -= wanted
            return 0.0
        return (wanted - self._tokens) / self._per_second

    def spend(self, tokens: float) -> float:
        """Take this many for what has happened already, though there may be fewer.

        Returns:
            0, or the seconds until what is missing has grown again.
        """
        self._grow()
        self._tokens -= tokens
        return max(-self._tokens / self._per_second, 0.0)

    @property
    def full(self) -> bool:
        """Whether nothing was taken for long enough."""
        self._grow()
        return self._tokens >= self._burst

    def _grow(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
