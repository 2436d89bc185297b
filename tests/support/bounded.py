"""The embedded server around a small application, in a thread and on an event loop (uvloop) of its own: that of
`pilothouse serve`. What a client does in the test does not stop the server.

async with bounded(app, header_seconds=0.2) as server:
    client = await server.connect()
    answer = await client.ask(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
"""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvloop
from starlette.types import ASGIApp
from tests.support.raw_http import GUARD_SECONDS, RawAnswer, RawClient

from pilothouse.server import Server, ServerConfig
from pilothouse.server.connections import Connections
from pilothouse.server.protocol import HttpProtocol
from pilothouse.settings import ServerSettings


class _Server(Server):
    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.ready.set()


class Bounded:
    """A running server and its clients."""

    def __init__(self, port: int, connections: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self.port = port
        self.connections = connections
        self.clients: list[RawClient] = []
        self._loop = loop

    def do(self, function: Callable[[], Any]) -> None:
        """Call it in the server's loop."""
        self._loop.call_soon_threadsafe(function)

    def protocols(self) -> list[HttpProtocol]:
        """Of the open connections."""
        return [item for item in list(self.connections._open) if isinstance(item, HttpProtocol)]

    async def connect(self, **options: Any) -> RawClient:
        """A connection that is closed with the server."""
        client = await RawClient.connect(self.port, **options)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes) -> RawAnswer:
        """On a connection of its own."""
        client = await self.connect()
        try:
            return await client.ask(request)
        finally:
            client.close()


@asynccontextmanager
async def bounded(app: ASGIApp, **settings: Any) -> AsyncIterator[Bounded]:
    """`app` on the embedded server, with these `PILOTHOUSE_SERVER_*` settings."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = ServerConfig(app, ServerSettings(**settings), lifespan="off", timeout_graceful_shutdown=1)
        server = _Server(config)
        thread = threading.Thread(target=uvloop.run, args=(server.serve(sockets=[listener]),), daemon=True)
        thread.start()
        assert server.ready.wait(GUARD_SECONDS)
        made = Bounded(listener.getsockname()[1], config.connections, server.loop)
        try:
            yield made
        finally:
            for client in made.clients:
                client.close()
            server.should_exit = True
            await asyncio.to_thread(thread.join, GUARD_SECONDS)
