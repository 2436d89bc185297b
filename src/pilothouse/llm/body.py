"""The body of a model's answer on its way to the SDK: bounded in size, in silence, and in work at a time.

Invariants: a body holds at most one read of the socket, one event that is not complete and the text that the short way
is merging; once a bound is passed the connection is closed before anybody is told. Between two pieces that were already
here the event loop gets its turn, so an answer that arrives faster than it is handled blocks nobody.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

import aiohttp
import httpx2

from pilothouse.llm.bounds import AnswerLimits
from pilothouse.llm.failures import answer_too_large
from pilothouse.llm.inflate import Inflater
from pilothouse.llm.pace import Pace, Watch
from pilothouse.llm.shortway import ShortWay
from pilothouse.llm.sse import EventMeter

__all__ = ["Body", "BodyLimits", "translated"]

# After the last event of an answer some servers leave the connection open.
_LINGER_SECONDS = 2.0
# What an error says is read for its code only; the rest of a longer page is of no use.
_ERROR_BYTES = 1_048_576
# So much of what has arrived is handled at a time: some tens of events.
_SLICE_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Most bytes of a body, on the wire and decoded; of an event that is not complete; and what more bytes mean.

    With `cuts` a longer body ends at the bound, as if it were over there; otherwise it is an answer too large.
    """

    whole: int
    event: int
    cuts: bool = False

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, limits: AnswerLimits, *, is_stream: bool) -> Self:
        """The limits for a response, told by its head."""
        if response.status >= 400:
            return cls(whole=_ERROR_BYTES, event=_ERROR_BYTES, cuts=True)
        return cls(whole=limits.stream_bytes if is_stream else limits.event_bytes, event=limits.event_bytes)


class Body(httpx2.AsyncByteStream):
    """The body of a response. Iterating it again goes on where the last iteration stopped."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        request: httpx2.Request,
        *,
        watch: Watch,
        pace: Pace,
        limits: BodyLimits,
        inflater: Inflater | None,
        short_way: ShortWay | None,
    ) -> None:
        self._response = response
        self._content = response.content
        self._request = request
        self._watch = watch
        self._pace = pace
        self._limits = limits
        self._inflater = inflater
        self._short_way = short_way
        self._meter = EventMeter() if response.content_type == "text/event-stream" else None
        # Read from the socket, not handled yet; and handled, not given on yet.
        self._arrived: deque[bytes] = deque()
        self._ready: deque[bytes] = deque()
        self._wire_bytes = self._decoded_bytes = 0
        self._is_over = False
        self._later_limit = self.limit = float("inf")
        self._heard_at = 0.0
        self._heard_bytes = 0

    def watch(self, first_limit: float | None, later_limit: float | None, *, since: float) -> None:
        """Bound the wait for the first byte, counted from `since`, and each silence after it, in seconds."""
        connection = self._response.connection
        if connection is None or connection.protocol is None:
            return
        # From here on the watch keeps time; aiohttp would set a timer anew with every packet.
        connection.protocol.read_timeout = None
        self.limit = float("inf") if first_limit is None else first_limit
        self._later_limit = float("inf") if later_limit is None else later_limit
        self._heard_at = since
        self._watch.add(self)

    def look(self, now: float) -> None:
        """Break off a read that has waited for too long."""
        heard = self._content.total_bytes
        if heard != self._heard_bytes:
            self._heard_bytes, self._heard_at = heard, now
            has_ended = self._short_way is not None and self._short_way.ended
            self.limit = _LINGER_SECONDS if has_ended else self._later_limit
        elif now - self._heard_at >= self.limit:
            self._watch.discard(self)
            self._content.set_exception(aiohttp.SocketTimeoutError("silence"))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._ready:
            await asyncio.sleep(0)
        while not self._ready:
            if self._is_over:
                raise StopAsyncIteration
            data = await self._next_slice()
            if not data:
                self._finish()
                continue
            self._handle(data)
            if not self._ready and not self._arrived and self._pace.delay and self._short_way is not None:
                await self._rest()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Close the connection at once, unless the body was read to its end."""
        if not self._is_over:
            self._abort()

    async def _next_slice(self) -> bytes:
        """The next bytes, decoded; nothing at the end of the body."""
        while True:
            if self._inflater is not None and (piece := self._inflated(self._inflater)):
                await asyncio.sleep(0)
                return piece
            if self._arrived:
                await asyncio.sleep(0)
            else:
                data = await self._read()
                if not data:
                    return b""
                self._count_wire(len(data))
                self._arrived.extend(data[at : at + _SLICE_BYTES] for at in range(0, len(data), _SLICE_BYTES))
            data = self._arrived.popleft()
            if self._inflater is None:
                return data
            self._inflater.feed(data)

    def _inflated(self, inflater: Inflater) -> bytes:
        try:
            return inflater.next_piece()
        except ValueError as error:
            self._abort()
            raise httpx2.DecodingError(str(error), request=self._request) from error

    def _handle(self, data: bytes) -> None:
        room = self._limits.whole - self._decoded_bytes
        self._decoded_bytes += len(data)
        if room < len(data):
            if not self._limits.cuts:
                self._refuse(self._limits.whole)
            data = data[:room]
            self._abort()
        if self._meter is not None and self._meter.feed(data) > self._limits.event:
            self._refuse(self._limits.event)
        if self._short_way is None:
            self._ready.append(data)
            return
        try:
            self._ready.extend(self._short_way.feed(data))
        except BaseException:
            self._abort()
            raise

    def _count_wire(self, count: int) -> None:
        self._wire_bytes += count
        if self._wire_bytes > self._limits.whole and not self._limits.cuts:
            self._refuse(self._limits.whole)

    def _refuse(self, most: int) -> None:
        """Close the connection, let go of what is here, and say that it was too much."""
        self._arrived.clear()
        self._ready.clear()
        self._abort()
        raise answer_too_large(f"more than {most} bytes")

    def _finish(self) -> None:
        self._end()
        if self._short_way is None:
            return
        rest = self._short_way.finish()
        if not self._short_way.may_stop:
            raise httpx2.RemoteProtocolError("The stream stopped before its end.", request=self._request)
        self._ready.extend(rest)

    async def _read(self) -> bytes:
        try:
            return await self._content.readany()
        except aiohttp.SocketTimeoutError as error:
            if self._short_way is not None and self._short_way.ended:
                self._response.close()
                return b""
            raise translated(error, self._request) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translated(error, self._request) from error

    async def _rest(self) -> None:
        """Leave what arrives in the socket until the next beat, so that one read takes it all."""
        connection = self._response.connection
        protocol = None if connection is None else connection.protocol
        if protocol is None:
            return
        protocol.pause_reading()
        try:
            await self._pace.beat()
        finally:
            protocol.resume_reading()

    def _end(self) -> None:
        self._is_over = True
        self._watch.discard(self)

    def _abort(self) -> None:
        self._end()
        self._response.close()


def translated(error: Exception, request: httpx2.Request) -> httpx2.RequestError:
    """The error that httpx2's own transport would raise; the SDKs and Pydantic AI classify by it."""
    kind: type[httpx2.RequestError] = httpx2.ReadError
    match error:
        case aiohttp.SocketTimeoutError():
            kind = httpx2.ReadTimeout
        case aiohttp.ServerTimeoutError() | TimeoutError():
            kind = httpx2.ConnectTimeout
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            kind = httpx2.ProxyError
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            kind = httpx2.ConnectError
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientResponseError():
            kind = httpx2.RemoteProtocolError
        case aiohttp.InvalidURL():
            kind = httpx2.UnsupportedProtocol
        case _:
            pass
    return kind(str(error) or type(error).__name__, request=request)
