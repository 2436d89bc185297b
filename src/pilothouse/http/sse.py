"""Server-sent events over a connection that may be slow, silent or gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pilothouse.http.presence import wait_for_leave
from pilothouse.kit.timeouts import expire
from pilothouse.observability.logs import get_logger

HEARTBEAT = b": hb\n\n"
_FIRST = b": ok\n\n"
_LAST_WORD_SECONDS = 2.0
"""How long a client may take for the last event of a stream that is ended: it may be one that does not read."""


def encode_event(id: str, type: str, data_json: str | bytes) -> bytes:  # noqa: A002 - the format's own names
    """One event of the stream (https://html.spec.whatwg.org/multipage/server-sent-events.html).

    Args:
        id: what the client sends back as `Last-Event-ID`; one line.
        type: the event's name; one line.
        data_json: JSON text; line breaks in it are kept as several `data:` lines.
    """
    data = data_json.encode() if isinstance(data_json, str) else data_json
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(data.splitlines())
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), type.encode(), data)


class EventStreamResponse(Response):
    """Send what `source` yields, each as one write, until it ends or the client leaves.

    - A comment goes out at once, so that proxies pass the headers on, and `: hb` after every
      `heartbeat_seconds` of silence.
    - The next item is asked for only when the last one was taken by the connection: a slow client slows `source`
      and costs no memory.
    - However it ends, `source` is closed (`aclose`, or cancelled where it waits). Where the client left,
      `on_disconnect` is called after that; on a server's shutdown it is not.
    - `end` stops it early, with a last event. Then `on_disconnect` is not called: the client did not leave.
    - An error of `source` cuts the connection, so that the client resumes rather than takes the stream for whole.
    """

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        heartbeat_seconds: float,
        on_disconnect: Callable[[], Awaitable[Any] | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.source = source
        self.heartbeat_seconds = heartbeat_seconds
        self.on_disconnect = on_disconnect
        self.status_code = 200
        self.background = None
        self._last: bytes | None = None
        self._presence: asyncio.Timeout | None = None
        self._started = False
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})

    def end(self, last: bytes) -> None:
        """Stop the stream now, with `last` as the last thing its client is sent."""
        self._last = last
        if self._presence is not None:
            expire(self._presence)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        ended, last = False, None
        presence = asyncio.timeout(0 if self._last is not None else None)
        self._presence = presence
        try:
            async with presence:
                pulse = _Pulse(send, self.heartbeat_seconds)
                listener = asyncio.create_task(wait_for_leave(receive, presence))
                try:
                    await self._stream(send, pulse)
                finally:
                    listener.cancel()
                    pulse.stop()
        except TimeoutError:
            if not presence.expired():
                raise
            ended, last = True, self._last
        finally:
            self._presence = None
            await _close(self.source)
        if last is not None:
            await self._say_last(send, last)
        elif ended:
            await self._tell()

    async def _start(self, send: Send) -> None:
        self._started = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _stream(self, send: Send, pulse: "_Pulse") -> None:
        await self._start(send)
        await send({"type": "http.response.body", "body": _FIRST, "more_body": True})
        pulse.start()
        async for chunk in self.source:
            if pulse.beating is not None:
                await pulse.beating
            pulse.sending = True
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            pulse.sent()
            del chunk  # it is sent: a silent stream keeps nothing of it
        if pulse.beating is not None:
            await pulse.beating
        pulse.stop()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say_last(self, send: Send, last: bytes) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                if not self._started:
                    await self._start(send)
                await send({"type": "http.response.body", "body": last, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self) -> None:
        if self.on_disconnect is None:
            return
        try:
            result = self.on_disconnect()
            if result is not None:
                await result
        except Exception:  # noqa: BLE001 - the client is gone: there is nobody to tell but the log
            get_logger("pilothouse.http").exception("on_disconnect_failed")


class _Pulse:
    """Heartbeats. One timer that is moved on only when it fires, and a task only for a beat itself."""

    __slots__ = ("_last", "_loop", "_seconds", "_send", "_timer", "beating", "sending")

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.sending = False
        self.beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._last = self._loop.time()
        self._timer = self._loop.call_later(self._seconds, self._fire)

    def sent(self) -> None:
        self._last = self._loop.time()
        self.sending = False

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.beating is not None:
            self.beating.cancel()

    def _fire(self) -> None:
        now = self._loop.time()
        due = self._last + self._seconds
        if now >= due and not self.sending and self.beating is None:
            self.beating = self._loop.create_task(self._beat())
            due = now + self._seconds
        self._timer = self._loop.call_at(due if due > now else now + self._seconds / 4, self._fire)

    async def _beat(self) -> None:
        try:
            await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
            self._last = self._loop.time()
        except OSError:
            return  # the connection broke; receive() says so too
        finally:
            self.beating = None


async def _close(source: AsyncIterator[bytes]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
