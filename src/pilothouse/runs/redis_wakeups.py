# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Wake-ups over Redis or Valkey. (The client library types its commands only in part.)"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_CHANNEL = "pilothouse:look"
_RETRY_SECONDS = 1.0
_MOST_WAITING = 10_000


class RedisWakeups:
    """One subscription and one sender a process, however many streams are open.

    Args:
        on_run: called with the id of a run whose log has grown somewhere.
        on_look: called where reapers are to look.
    """

    def __init__(self, url: str, *, on_run: Callable[[str], None], on_look: Callable[[], None]) -> None:
        self._redis: Redis = Redis.from_url(url, decode_responses=True, socket_connect_timeout=2, socket_timeout=None)
        self._on_run = on_run
        self._on_look = on_look
        self._changed: set[str] = set()
        self._look = False
        self._something = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def run_changed(self, run_id: str) -> None:
        """A run's log has grown: said once, however often it grew since the last message."""
        if len(self._changed) < _MOST_WAITING:
            self._changed.add(run_id)
            self._something.set()

    def reapers_look(self) -> None:
        """Somebody wants a run stopped, or this node has left its runs."""
        self._look = True
        self._something.set()

    def start(self) -> None:
        """Begin to listen and to send."""
        self._tasks = [
            asyncio.create_task(self._forever(self._listen), name="wakeups-listen"),
            asyncio.create_task(self._forever(self._send), name="wakeups-send"),
        ]

    async def close(self) -> None:
        """Stop; what was not sent yet is sent if that is quick."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._send_waiting()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    async def reachable(self) -> bool:
        """Whether Redis answers."""
        try:
            async with asyncio.timeout(2):
                return bool(await self._redis.ping())  # pyright: ignore[reportGeneralTypeIssues]
        except (RedisError, OSError, TimeoutError):
            return False

    async def _forever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (RedisError, OSError) as error:
                log.warning("wakeups_away", reason=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _listen(self) -> None:
        async with self._redis.pubsub() as subscription:
            await subscription.subscribe(_CHANNEL)
            async for message in subscription.listen():
                if message["type"] == "message":
                    self._receive(str(message["data"]))

    def _receive(self, text: str) -> None:
        for line in text.split(" "):
            kind, _, run_id = line.partition(":")
            if kind == "run":
                self._on_run(run_id)
            elif kind == "look":
                self._on_look()

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            await self._send_waiting()

    async def _send_waiting(self) -> None:
        self._something.clear()
        changed, self._changed = self._changed, set()
        look, self._look = self._look, False
        lines = [*(("look:",) if look else ()), *(f"run:{run_id}" for run_id in changed)]
        if lines:
            await self._redis.publish(_CHANNEL, " ".join(lines))
