"""uvicorn's HTTP/1.1 protocol with bounds on the bytes and the time of a request.

uvicorn hands every byte to llhttp as it comes. llhttp refuses what is malformed, but collects a line for as long as it
goes on, and knows no time. So this class

- gives the parser only as many bytes of a head (request line and headers) as are allowed,
- sets a deadline for the head, and then a lowest rate for the body; `Connections` calls `check` to see to them,
- bounds what comes in chunked bodies beside their data, and how many requests wait for their turn (pipelining).

Whatever is refused is answered once, as a problem document, and no byte after it is parsed: what follows a request that
was refused could be taken for another request (request smuggling).
"""

import asyncio
from typing import Any, Final, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from pilothouse.errors import PilothouseError
from pilothouse.server.connections import MOST_LINGERING, Connections
from pilothouse.server.refusals import (
    answer,
    headers_too_large,
    malformed_request,
    pipeline_too_long,
    request_timeout,
    uri_too_long,
    version_not_supported,
)
from pilothouse.server.sending import SendWatch, is_event_stream, unsent_bytes
from pilothouse.server.websocket import WebSocketProtocol

MOST_PIPELINED = 16
"""Most requests of a connection that wait while an earlier one is answered."""

_LINGER_SECONDS: Final = 2.0
"""How long a refused connection is read from after its answer: a client that is still sending when its connection
closes may never see the answer."""
_MOST_DISCARDED: Final = 1_048_576
_MOST_HELD: Final = 1_048_576
_END_OF_HEAD: Final = b"\r\n\r\n"
_CHUNK_OVERHEAD: Final = 16
"""Bytes of framing that a chunked body may have for each byte of data, beside one head's worth. A chunk of one byte has
five."""
_VERSIONS: Final = frozenset({"1.0", "1.1"})

_HEAD, _BODY, _CLOSED = range(3)


class _Stop(Exception):
    """Ends the parser inside one of its callbacks."""


class HttpProtocol(HttpToolsProtocol):
    """A connection of the embedded server. Its phase is that of its reading side:

    _HEAD: a head, or nothing yet. _BODY: a body. _CLOSED: what still comes is thrown away.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = connections
        self._limits = limits = connections.limits
        self._phase = _HEAD
        self._deadline: float | None = None
        self._room = limits.header_bytes
        """How many bytes the parser may be given before it must have come further."""
        self._begun = False  # a request line has begun that is not a complete request yet
        self._midway = False  # ...behind another request in the same read, so that its size is not known
        self._body_bytes = 0
        self._checked_bytes = 0
        self._overhead = 0
        self._overhead_run = 0
        self._discarded = 0
        self._held = b""  # what came behind a full pipeline
        self._problem: PilothouseError | None = None
        self._running: RequestResponseCycle | None = None
        self._sends_events = False
        self._linger: asyncio.TimerHandle | None = None
        self._lingers_unadmitted = False
        self._sent = SendWatch(limits.send_seconds, limits.min_bytes_per_second * limits.send_seconds)

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        refused = self._shared.admit(self, None if self.client is None else self.client[0])
        if refused is None:
            self._deadline = self.loop.time() + self._limits.header_seconds
        elif self._shared.lingering < MOST_LINGERING:
            self._shared.lingering += 1
            self._lingers_unadmitted = True
            self._refuse(refused)
        else:
            self._refuse(refused, linger=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.leave(self)
        self._phase, self._deadline = _CLOSED, None
        if self._linger is not None:
            self._linger.cancel()
        if self._lingers_unadmitted:
            self._shared.lingering -= 1
            self._lingers_unadmitted = False
        if self._running is not None:  # uvicorn tells the request that came last, which may still wait for its turn
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._sent.reset()
        super().resume_writing()

    def abort(self) -> None:
        """See `Watched`."""
        self.transport.abort()

    # --- what comes in

    def data_received(self, data: bytes) -> None:
        if self._phase == _CLOSED or self._held:
            self._keep_or_discard(data)
            return
        self._unset_keepalive_if_required()
        if self._phase == _BODY or len(data) > self._room or data.count(_END_OF_HEAD) > 1:
            self._feed_in_pieces(data)
            return
        if self._deadline is None:
            self._deadline = self.loop.time() + self._limits.header_seconds
        self._room -= len(data)
        self._feed(data)

    def _feed_in_pieces(self, data: bytes) -> None:
        """Feed one head, or a part of one body, at a time; keep the rest while too many requests wait."""
        start = 0
        while start < len(data) and self._phase != _CLOSED:
            if len(self.pipeline) >= MOST_PIPELINED:
                self._keep_or_discard(data[start:])
                return
            if not self._room:
                self._refuse(self._head_too_large())
                return
            end = self._end_of_piece(data, start)
            piece, start = data[start:end], end
            before, in_head = self._body_bytes, self._phase == _HEAD
            if in_head:
                self._room -= len(piece)
                if self._deadline is None:
                    self._deadline = self.loop.time() + self._limits.header_seconds
            self._feed(piece)
            if not in_head and self._phase == _BODY:
                self._count_overhead(len(piece), self._body_bytes - before)

    def _end_of_piece(self, data: bytes, start: int) -> int:
        most = start + self._room
        if self._phase == _HEAD:
            found = data.find(_END_OF_HEAD, start, most)
            return most if found < 0 else found + len(_END_OF_HEAD)
        length = next((int(value) for name, value in self.headers if name == b"content-length"), None)
        return most if length is None else min(most, start + length - self._body_bytes)

    def _keep_or_discard(self, data: bytes) -> None:
        if self._phase == _CLOSED:
            self._discard(len(data))
            return
        self._held += data
        self.flow.pause_reading()
        if len(self._held) > _MOST_HELD:  # the application lets us read on while it answers
            self._refuse(pipeline_too_long())

    def _feed(self, data: bytes | memoryview) -> None:
        if self.parser is None:  # the connection is lost
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(self._problem or malformed_request())
        except httptools.HttpParserUpgrade:
            self._upgrade()

    def _upgrade(self) -> None:
        if not self._should_upgrade():
            # What follows is in a protocol we don't speak. The request itself is answered.
            self._shared.count("unsupported_upgrade")
            self._close_after_answer()
        elif self._is_answering() or self.pipeline:
            self._refuse(malformed_request())
        else:
            self._phase, self._deadline = _CLOSED, None
            self._unset_keepalive_if_required()
            self.handle_websocket_upgrade()
            self._shared.replace(self, cast("WebSocketProtocol", self.transport.get_protocol()))

    def _count_overhead(self, size: int, data: int) -> None:
        """See that a chunked body is not mostly extensions of chunks, or trailers. (Other bodies are all data.)"""
        self._overhead += size - data
        self._overhead_run = 0 if data else self._overhead_run + size
        most = self._limits.header_bytes
        if self._overhead_run > most or self._overhead > most + _CHUNK_OVERHEAD * self._body_bytes:
            self._refuse(headers_too_large(most, self._limits.headers))

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > _MOST_DISCARDED:
            self.transport.abort()

    # --- callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._midway = self._deadline is None
        if self._midway:
            self._deadline = self.loop.time() + self._limits.header_seconds

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == _BODY:
            return  # a trailer: the application has been given the headers already, and trusts what they say
        if len(self.headers) >= self._limits.headers:
            self._stop(headers_too_large(self._limits.header_bytes, self._limits.headers))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        limits = self._limits
        if self._midway and self._size_of_head() > limits.header_bytes:
            self._stop(self._head_too_large())
        version = "" if self.parser is None else self.parser.get_http_version()
        if version not in _VERSIONS:
            self._stop(version_not_supported())
        for name, value in self.headers:  # other codings are not decoded here; the parser finds that out too late
            if name == b"transfer-encoding" and (value.strip().lower() != b"chunked" or version == "1.0"):
                self._stop(malformed_request())
        if len(self.pipeline) > MOST_PIPELINED:
            self._stop(pipeline_too_long())
        super().on_headers_complete()
        self._phase = _BODY
        self._room = limits.header_bytes
        self._deadline = self.loop.time() + limits.body_seconds if limits.min_bytes_per_second else None
        self._body_bytes = self._checked_bytes = self._overhead = self._overhead_run = 0
        self._shared.requested(self)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = _HEAD
        self._room = self._limits.header_bytes
        self._deadline = None
        self._begun = False
        self._discarded = 0
        if self._running is not None and self._running.response_complete:
            # Answered before it was complete. uvicorn's own timer was set then, and what came since has unset it.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._held and self._phase != _CLOSED and not self.transport.is_closing():
            held, self._held = self._held, b""
            self.data_received(held)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self._sends_events = False
        super()._start_asgi_task(cycle, self._noting_streams(app))

    def _noting_streams(self, app: ASGI3Application) -> ASGI3Application:
        """`app`, which tells us if its answer is an event stream."""

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            def watch(message: Any) -> Any:  # no coroutine: it adds no frame to every streamed chunk
                if message["type"] == "http.response.start":
                    self._sends_events = is_event_stream(message.get("headers", ()))
                return send(message)

            await app(scope, receive, watch)

        return noting

    def _stop(self, problem: PilothouseError) -> None:
        self._problem = problem
        raise _Stop

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_large(self) -> PilothouseError:
        limits = self._limits
        if self._begun and len(self.url) > limits.header_bytes // 2:
            return uri_too_long(limits.header_bytes)
        return headers_too_large(limits.header_bytes, limits.headers)

    # --- time

    def check(self, now: float) -> None:
        """See `Watched`."""
        if self._deadline is not None and now >= self._deadline:
            self._overdue(now)
        running = self._running
        if running is None or self._is_streaming(running):
            self._sent.reset()
        elif self._sent.stalled(now, unsent_bytes(self.transport)):
            self._shared.count("slow_reader")
            self.transport.abort()

    def _is_streaming(self, running: RequestResponseCycle) -> bool:
        """Whether its reader may take its time: an event stream, or an application that does not wait for it."""
        if running.response_complete:
            return False
        return self._sends_events or not self.flow.write_paused

    def _overdue(self, now: float) -> None:
        if self._phase == _BODY:
            came = self._body_bytes - self._checked_bytes
            least = self._limits.min_bytes_per_second * self._limits.body_seconds
            if came < least and not self._is_ours_to_go_on():
                self._refuse(request_timeout("The body of the request"))
                return
            self._checked_bytes = self._body_bytes
            self._deadline = now + self._limits.body_seconds
        elif self.flow.read_paused or self._held:
            self._deadline = now + self._limits.header_seconds
        elif self._begun:
            self._refuse(request_timeout("The headers of the request"))
        else:  # nothing was asked, so there is nothing to answer
            self._shared.count("no_request")
            self._phase, self._deadline = _CLOSED, None
            self.transport.close()

    def _is_ours_to_go_on(self) -> bool:
        """Whether the client waits for us: we don't read, or it waits to be told to send its body."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    # --- refusals

    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _refuse(self, problem: PilothouseError, *, linger: bool = True) -> None:
        """Read no more requests. The one at fault is answered with `problem`, if an answer can still be its answer."""
        self._shared.count(problem.code)
        in_body = self._phase == _BODY
        if self._is_answering() and not (in_body and self._running is self.cycle):
            self._close_after_answer()
            return
        self._phase, self._deadline = _CLOSED, None
        if in_body:
            cycle = self.cycle
            if cycle.response_complete:
                self.transport.close()
                return
            if cycle.response_started:
                self.transport.abort()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if self.transport.is_closing():
            return
        self.transport.write(answer(problem))
        if linger and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._linger = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()

    def _close_after_answer(self) -> None:
        """Let the request that is being answered be the last of this connection."""
        self._phase, self._deadline = _CLOSED, None
        self._held = b""
        self.pipeline.clear()
        if self._running is not None:
            self._running.keep_alive = False
