"""uvicorn's WebSocket protocol, as one of a server's counted and watched connections."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from pilothouse.server.connections import Connections
from pilothouse.server.refusals import answer, malformed_request
from pilothouse.server.websocket_bounds import BoundedWebSocketProtocol


class WebSocketProtocol(BoundedWebSocketProtocol):
    """A WebSocket after its handshake request has come complete."""

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
        """See `Watched`. Pings end a peer that is silent, and `BoundedWebSocketProtocol` one that does not read."""

    def abort(self) -> None:
        """See `Watched`."""
        self.transport.abort()
