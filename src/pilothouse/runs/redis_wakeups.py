# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Wake-ups over Redis or Valkey. (The client library types its commands only in part.)

Two supervised loops. `wake-ups in` is one subscription: a round is the life of its connection, which is given up when
a PING over it is not answered in time. `wake-ups out` publishes. Whatever fails, the next round connects anew.

Invariant: `on_connected` is called after each subscription, since nobody knows what was said while there was none.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pilothouse.engine.supervisor import Loop, Supervisor
from pilothouse.errors import Unavailable
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_CHANNEL = "pilothouse:look"
_MOST_WAITING = 10_000
_RUNS_A_MESSAGE = 500
_MOST_MESSAGE_BYTES = 256 * 1024
_MOST_ID_CHARS = 64
_SAY_EVERY_SECONDS = 60.0
_ERRORS = (RedisError, OSError, TimeoutError, EOFError)
_SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((ssl.SSLError,), "Redis does not speak TLS at this address. Use redis://, or the port for TLS."),
    ((NoPermissionError,), f"Redis does not let this user use the channel {_CHANNEL}."),
    ((AuthenticationError,), "Redis refuses the user or the password in PILOTHOUSE_REDIS_URL."),
    ((BusyLoadingError,), "Redis is loading its data."),
    ((ReadOnlyError,), "Redis is a read-only replica."),
    ((TimeoutError, RedisTimeoutError), "Redis does not answer in time."),
)


class RedisWakeups:
    """One subscription and one sender a process, however many streams are open.

    Args:
        url: `redis://` or `rediss://` (TLS; `?ssl_ca_certs=<file>` for a private authority).
        on_run: called with the id of a run whose log has grown somewhere.
        on_look: called when reapers are to look.
        on_connected: called after each subscription: look at everything.
        ping_seconds: between signs of life that are asked for.
        timeout_seconds: longest time for a connection, a command and the answer to a ping.
    """

    def __init__(
        self,
        url: str,
        *,
        on_run: Callable[[str], None],
        on_look: Callable[[], None],
        on_connected: Callable[[], None],
        ping_seconds: float = 5.0,
        timeout_seconds: float = 3.0,
    ) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            decode_responses=False,
            socket_connect_timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_keepalive=True,
            health_check_interval=0,
            retry=Retry(NoBackoff(), 0),  # the supervisor tries again, and says so
        )
        self._on_run = on_run
        self._on_look = on_look
        self._on_connected = on_connected
        self._ping_seconds = ping_seconds
        self._timeout = timeout_seconds
        self._changed: set[str] = set()
        self._look = False
        self._something = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._loops: list[Loop] = []
        self._subscribed = False
        self._sign_at: float | None = None
        self._ignored = 0
        self._said_at = -_SAY_EVERY_SECONDS

    @property
    def healthy(self) -> bool:
        """Subscribed, and Redis has answered over that connection lately."""
        silent = self.silent_seconds
        return self._subscribed and silent is not None and silent <= self._ping_seconds + self._timeout

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since Redis last said something over the subscription; None if it never did."""
        return None if self._sign_at is None else time.monotonic() - self._sign_at

    def run_changed(self, run_id: str) -> None:
        """A run's log has grown: said once, however often it grew since the last message."""
        if len(self._changed) < _MOST_WAITING:
            self._changed.add(run_id)
            self._something.set()

    def reapers_look(self) -> None:
        """Somebody wants a run stopped, or this node has left its runs."""
        self._look = True
        self._something.set()

    def start(self, supervisor: Supervisor) -> None:
        """Begin to listen and to send."""
        self._supervisor = supervisor
        stale = 2 * (self._ping_seconds + self._timeout)
        listener = supervisor.start("wakeups-in", self._listen, stale_seconds=stale)
        self._loops = [listener, supervisor.start("wakeups-out", self._send)]

    async def close(self) -> None:
        """Stop; what was not sent yet is sent if that is quick."""
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(min(1.0, self._timeout)):
                await self._send_waiting()
        if self._supervisor is not None:
            for loop in self._loops:
                await self._supervisor.stop(loop)
        with contextlib.suppress(*_ERRORS):
            async with asyncio.timeout(self._timeout):
                await self._redis.aclose()

    async def why_away(self) -> str | None:
        """Why Redis can't be used now; None if it answers."""
        try:
            with _translated():
                async with asyncio.timeout(self._timeout):
                    await self._redis.execute_command("PING")
        except Unavailable as error:
            return error.message
        return None

    async def _listen(self) -> None:
        subscription = self._redis.pubsub()
        try:
            with _translated():
                async with asyncio.timeout(self._timeout):
                    await subscription.subscribe(_CHANNEL)
                await self._receive_from(subscription)
        finally:
            self._subscribed = False
            with contextlib.suppress(*_ERRORS):
                async with asyncio.timeout(self._timeout):
                    await subscription.aclose()

    async def _receive_from(self, subscription: PubSub) -> None:
        """Until the connection fails or does not answer in time."""
        asked_at: float | None = time.monotonic()  # the confirmation of the subscription is the first sign of life
        while True:
            limit = self._ping_seconds if asked_at is None else asked_at + self._timeout - time.monotonic()
            message: Any = await subscription.get_message(timeout=max(limit, 0.001))
            now = time.monotonic()
            if message is not None:
                self._sign_at, asked_at = now, None
                self._handle(message)
            elif asked_at is None:
                asked_at = now
                async with asyncio.timeout(self._timeout):
                    await subscription.ping()
            elif now >= asked_at + self._timeout:
                raise Unavailable(f"Redis has not answered for {self._timeout:g} s.", code="redis_unavailable")

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "subscribe":
            self._subscribed = True
            log.info("wakeups_connected")
            self._on_connected()
        self._loops[0].succeeded()  # whatever it says, the connection works
        if kind == "message":
            self._receive(message.get("data"))

    def _receive(self, data: object) -> None:
        """Do what a message says. One that is none of ours is ignored: anybody may publish there."""
        if not isinstance(data, bytes) or len(data) > _MOST_MESSAGE_BYTES:
            self._ignore()
            return
        for line in data.decode("utf-8", "replace").split(" "):
            kind, colon, run_id = line.partition(":")
            if kind == "run" and 0 < len(run_id) <= _MOST_ID_CHARS:
                self._on_run(run_id)
            elif kind == "look" and colon:
                self._on_look()
            else:
                self._ignore()
                return

    def _ignore(self) -> None:
        self._ignored += 1
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = now
            log.warning("wakeups_ignored", channel=_CHANNEL, messages=self._ignored, meaning="not sent by Pilothouse")

    async def _send(self) -> None:
        await self._something.wait()
        await self._send_waiting()

    async def _send_waiting(self) -> None:
        """Publish what is to be said. What could not be sent is kept for the next round."""
        self._something.clear()
        changed, self._changed = self._changed, set()
        look, self._look = self._look, False
        try:
            while look or changed:
                part = [changed.pop() for _ in range(min(_RUNS_A_MESSAGE, len(changed)))]
                try:
                    lines = [*(("look:",) if look else ()), *(f"run:{run_id}" for run_id in part)]
                    with _translated():
                        async with asyncio.timeout(self._timeout):
                            await self._redis.publish(_CHANNEL, " ".join(lines))
                except BaseException:
                    changed.update(part)
                    raise
                look = False
        finally:
            if look or changed:
                self._look = self._look or look
                self._changed |= changed
                self._something.set()


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Whatever the client library or the server says, as one error with a sentence to act on."""
    try:
        yield
    except _ERRORS as error:
        raise Unavailable(_sentence(error), code="redis_unavailable") from error


def _sentence(error: Exception) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"The certificate of Redis is not trusted ({cause.verify_message}). If a private authority has signed "
                "it, add ?ssl_ca_certs=<file> to PILOTHOUSE_REDIS_URL."
            )
    said = next((sentence for kinds, sentence in _SENTENCES if any(isinstance(c, kinds) for c in _causes(error))), None)
    return said or f"Redis can't be used ({type(error).__name__})."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
