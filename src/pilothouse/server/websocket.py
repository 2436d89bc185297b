"""uvicorn's WebSocket protocol, as one of a server's counted and watched connections."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from pilothouse.server.connections import Connections
from pilothouse.server.refusals import answer, malformed_request
from pilothouse.server.sending import SendWatch, unsent_bytes


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A WebSocket after its handshake request has come complete.

    uvicorn's pings end a peer that does not answer, but its `close` waits for ever for a peer that does not read.
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
        limits = connections.limits
        self._sent = SendWatch(limits.send_seconds, limits.min_bytes_per_second * limits.send_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self._refuse_handshake()

    def _refuse_handshake(self) -> None:
        """The parser of handshakes takes less than that of HTTP: no body, shorter lines. uvicorn overlooks that it has
        given up, and keeps the connection.
        """
        error = malformed_request()
        self._shared.count(error.code)
        self.close_sent = self.handshake_complete = True
        self.transport.write(answer(error))
        self.transport.close()

    def check(self, now: float) -> None:
        """See `Watched`. While it is open, pings do this."""
        if not self.transport.is_closing():
            self._sent.reset()
        elif self._sent.stalled(now, unsent_bytes(self.transport)):
            self._shared.count("slow_reader")
            self.abort()

    def abort(self) -> None:
        """See `Watched`."""
        self.transport.abort()
