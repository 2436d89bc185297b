"""What all open streams of a process share: the eye on silent ones, and the beat they read at under load."""

import asyncio
import time
from typing import Protocol

from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

__all__ = ["Pace", "Watch", "Watched"]

_LOOK_SECONDS = 0.5
_BUSY_FROM, _BUSY_FULL = 0.6, 0.9


class Watched(Protocol):
    """A stream that must not be silent for longer than `limit` seconds."""

    limit: float

    def look(self, now: float) -> None:
        """Break off, if the stream has been silent for too long."""
        ...


class Watch:
    """One timer for all streams, instead of one set anew with each packet of each stream.

    Streams are looked at twice a second, more often where limits are short, so that silence is noticed at most half a
    second late.
    """

    def __init__(self, pace: "Pace") -> None:
        self._pace = pace
        self._streams: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Watched) -> None:
        """Begin to watch."""
        self._streams.add(stream)
        interval = min(_LOOK_SECONDS, stream.limit / 8)
        if self._timer is not None and self._timer.when() > asyncio.get_running_loop().time() + interval:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._wake_in(interval)

    def discard(self, stream: Watched) -> None:
        """Watch no longer."""
        self._streams.discard(stream)

    def close(self) -> None:
        """Stop the timer."""
        self._streams.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        try:
            self._pace.measure()
            for stream in tuple(self._streams):
                self._look_at(stream, now)
        finally:
            # All streams hang on this one timer: nothing that goes wrong with one of them may stop it.
            if self._streams:
                self._wake_in(min(_LOOK_SECONDS, min(stream.limit for stream in self._streams) / 8))

    def _look_at(self, stream: Watched, now: float) -> None:
        try:
            stream.look(now)
        except Exception:
            log.exception("stream_not_watched")
            self._streams.discard(stream)


class Pace:
    """How long streams wait between reads, so that under load one read brings several tokens.

    `delay` is 0 while the event loop's thread is less than 60 % busy, and grows to `longest` seconds at 90 %.
    """

    def __init__(self, longest: float = 0.1) -> None:
        self.delay = 0.0
        self._longest = longest
        self._measured = (time.monotonic(), time.thread_time())
        self._waiting: list[asyncio.Future[None]] = []

    def measure(self) -> None:
        """Set `delay` by how busy this thread was since the last measure."""
        wall, cpu = time.monotonic(), time.thread_time()
        wall_before, cpu_before = self._measured
        if wall - wall_before < _LOOK_SECONDS / 2:
            return
        self._measured = wall, cpu
        share = ((cpu - cpu_before) / (wall - wall_before) - _BUSY_FROM) / (_BUSY_FULL - _BUSY_FROM)
        self.delay = self._longest * min(1.0, max(0.0, share))

    async def beat(self) -> None:
        """Wait for the next beat, which is the same for all streams."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(self.delay, self._strike)
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _strike(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
