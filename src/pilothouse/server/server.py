"""uvicorn's server, with our own way of accepting connections."""

import asyncio
import socket
import sys
from typing import Any, cast

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from pilothouse.server.accept import Acceptor
from pilothouse.server.config import ServerConfig


class Server(uvicorn.Server):
    """Serves on sockets that are bound."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self._connections = config.connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen.

        Raises:
            OSError: another program listens on an address.
        """
        if sys.platform == "win32" or not sockets:  # its event loop has no readers
            await super().startup(sockets)
            return
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        acceptors = [Acceptor(listener, self._make_protocol, self._connections) for listener in sockets]
        for acceptor in acceptors:
            acceptor.start(self.config.backlog)
        self.servers = cast("Any", acceptors)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, in order."""
        await super().shutdown(sockets)
        self._connections.write_log()

    def _make_protocol(self) -> asyncio.BaseProtocol:
        make: Any = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
