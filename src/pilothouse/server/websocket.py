"""uvicorn's WebSocket protocol with bounds on what a peer can make it keep and do, and for how long."""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from pilothouse.kit.token_bucket import TokenBucket
from pilothouse.server.connections import Connections
from pilothouse.server.refusals import answer, malformed_request

PIECE_BYTES = 4_096
"""Most bytes parsed at once. The smallest frame takes six, and each becomes objects of a hundred times its size."""
FRAMES_PER_SECOND = 200.0
"""Frames of any kind, pings, pongs and fragments too, and most at once. Reading pauses for those who send more. A frame
costs some 7 us, so a thousand sockets that send all they may cost what a core has.
"""
MESSAGE_SECONDS = 60.0
"""How long a message may take from its first byte to its last."""
CLOSE_SECONDS = 10.0
"""How long a peer may take to read what was sent to it before the connection was closed."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket, once its handshake request is complete. Beside what uvicorn does:

    - What has come is parsed piece by piece, while the application takes the messages and not before the handshake is
      answered. The rest stays bytes, and reading from the connection pauses.
    - Fragments of a message are joined as they come: a message without end costs no more than its bytes, of which the
      limit on a message's size holds.
    - Frames of all kinds are counted, and pings are answered only to a peer that reads.
    - A message has to be whole in time, and a closed connection is cut if its peer does not read the rest.
    """

    def __init__(self, *args: Any, connections: Connections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shared = connections
        self._unparsed = bytearray()
        self._parsing = False
        self._paused = False
        self._pong_waits = False
        self._bucket = TokenBucket(FRAMES_PER_SECOND, burst=FRAMES_PER_SECOND, clock=self.loop.time)
        self._go_on: asyncio.TimerHandle | None = None
        self._message_due: float | None = None  # set while a message has begun and not ended
        self._cut_at: float | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.leave(self)
        if self._go_on is not None:
            self._go_on.cancel()
        self._unparsed.clear()
        super().connection_lost(exc)

    def check(self, now: float) -> None:
        """See `Watched`. uvicorn's own pings end a peer that is silent."""
        if self._cut_at is not None and now >= self._cut_at:
            self.transport.abort()
        elif self._message_due is not None and now >= self._message_due:
            self._message_is_late()

    def abort(self) -> None:
        """See `Watched`."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unparsed += data
        self._parse_more()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pong_waits = False
        self._parse_more()

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._parse_more()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # refused with an answer; uvicorn takes it for unanswered
        if message["type"] in {"websocket.accept", "websocket.close"}:
            self._parse_more()
        if self.transport.is_closing():
            self._cut_later()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self._cut_later()

    def handle_cont(self, event: Frame) -> None:
        if self.frames:
            first = self.frames[0]
            joined = first if isinstance(first, bytearray) else bytearray(first)
            joined += event.data
            self.frames = [joined]  # pyright: ignore[reportAttributeAccessIssue] - a bytearray serves
        else:
            self.frames = [bytearray(event.data)]  # pyright: ignore[reportAttributeAccessIssue]
        if event.fin:
            self.frames = [bytes(self.frames[0])]
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        self._message_due = None  # one has ended: what is begun now is another
        super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        super().handle_ping()
        self._pong_waits = not self.writable.is_set()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._cut_later()

    def _may_parse(self) -> bool:
        if self.handshake_initiated and not self.handshake_complete:
            return False
        return not (self.read_paused or self._pong_waits or self._go_on is not None)

    def _parse_more(self) -> None:
        """Parse what may be parsed now, and read from the connection only if that was all."""
        if self._parsing:  # what is parsed may call us
            return
        self._parsing = True
        try:
            while self._unparsed and self._may_parse() and not self.transport.is_closing():
                piece = bytes(self._unparsed[:PIECE_BYTES])
                del self._unparsed[:PIECE_BYTES]
                super().data_received(piece)
        finally:
            self._parsing = False
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self._refuse_handshake()
        self._read_or_pause()
        self._watch_message()

    def handle_events(self) -> None:
        wait = self._bucket.spend(len(self.conn.events))
        if wait and self._go_on is None:
            self._go_on = self.loop.call_later(wait, self._continue)
        super().handle_events()

    def _continue(self) -> None:
        self._go_on = None
        self._parse_more()

    def _read_or_pause(self) -> None:
        if self.transport.is_closing():
            return
        self._paused = not self._may_parse()
        if self._paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _watch_message(self) -> None:
        begun = self.handshake_complete and (self.conn.current_size is not None or bool(self.conn.reader.buffer))
        if not begun:
            self._message_due = None
        elif self._message_due is None:
            self._message_due = self.loop.time() + MESSAGE_SECONDS

    def _refuse_handshake(self) -> None:
        """The parser of handshakes takes less than that of HTTP: no body, shorter lines. uvicorn overlooks that it has
        given up, and keeps the connection.
        """
        error = malformed_request()
        self._shared.count(error.code)
        self.close_sent = self.handshake_complete = True
        self.transport.write(answer(error))
        self.transport.close()

    def _message_is_late(self) -> None:
        self._message_due = None
        if self._paused:  # by us: it could not go on
            self._watch_message()
        elif not self.transport.is_closing() and not self.close_sent:
            self.conn.fail(1008, "message not completed in time")
            self.handle_parser_exception()
            self._cut_later()

    def _cut_later(self) -> None:
        if self._cut_at is None:
            self._cut_at = self.loop.time() + CLOSE_SECONDS
