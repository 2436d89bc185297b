"""How connections are accepted, on asyncio's own event loop; uvloop sets the option below by itself."""

import asyncio
import socket

from pilothouse.server.accept import Acceptor
from pilothouse.server.connections import Connections
from pilothouse.server.limits import Limits
from pilothouse.settings import ServerSettings


class Told(asyncio.Protocol):
    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)


async def test_a_small_answer_does_not_wait_for_the_acknowledgement_of_the_one_before():
    told = Told()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = Acceptor(listener, lambda: told, Connections(Limits.of(ServerSettings())))
        acceptor.start(backlog=1)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        transport = await asyncio.wait_for(told.made, 30)
        accepted = transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.abort()
        writer.close()
        acceptor.close()
        await acceptor.wait_closed()
