"""The proxy does to connections what it says, at any instant, and holds little."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pilothouse.testing.proxy import BlackHole, Cut, Delay, HalfClose, Pass, Refuse, Reset, TcpProxy, Throttle

GUARD = 60
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a filter in Linux's kernel")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Server:
    """Keeps what clients of the proxy send; answers nothing by itself."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Streams] = asyncio.Queue()
        self.all: list[Streams] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.all.append((reader, writer))
        self.connections.put_nowait((reader, writer))

    async def next(self) -> Streams:
        async with asyncio.timeout(GUARD):
            return await self.connections.get()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    for _, writer in server.all:
        writer.transport.abort()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy("127.0.0.1", server.port) as proxy:
        yield proxy


@asynccontextmanager
async def dialled(proxy: TcpProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def linked(proxy: TcpProxy, server: Server) -> AsyncIterator[tuple[Streams, Streams]]:
    """A client and its server, after a byte has gone each way."""
    async with dialled(proxy) as client:
        client[1].write(b"?")
        far = await server.next()
        assert await exactly(far, 1) == b"?"
        far[1].write(b"!")
        assert await exactly(client, 1) == b"!"
        try:
            yield client, far
        finally:
            far[1].transport.abort()


async def exactly(streams: Streams, count: int) -> bytes:
    async with asyncio.timeout(GUARD):
        return await streams[0].readexactly(count)


async def rest(streams: Streams) -> bytes:
    async with asyncio.timeout(GUARD):
        return await streams[0].read()


async def a_while(proxy: TcpProxy, server: Server) -> None:
    """As long as a new connection takes to be made and used: what passes has passed by then."""
    mode = proxy.mode
    proxy.switch(Pass(), existing=False)
    for _ in range(5):
        async with linked(proxy, server):
            pass
    proxy.switch(mode, existing=False)


def buffered(streams: Streams) -> bytes:
    return bytes(streams[0]._buffer)


async def test_bytes_and_ends_pass_both_ways_and_are_counted(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, far):
        client[1].write(b"x" * 1_000_000)
        client[1].write_eof()
        assert await rest(far) == b"x" * 1_000_000
        far[1].write(b"y" * 500_000)
        far[1].close()
        assert await rest(client) == b"y" * 500_000
    await proxy.wait_until(lambda stats: stats.open == 0, timeout=GUARD)
    assert (proxy.stats.accepted, proxy.stats.to_server, proxy.stats.to_client) == (1, 1_000_001, 500_001)


async def test_in_a_black_hole_nothing_arrives_and_nothing_is_closed_until_it_passes_again(
    proxy: TcpProxy, server: Server
) -> None:
    async with linked(proxy, server) as (client, far):
        proxy.switch(BlackHole())
        client[1].write(b"lost?")
        client[1].write_eof()
        far[1].write(b"gone?")
        await a_while(proxy, server)
        assert (buffered(far), buffered(client)) == (b"", b"")
        assert not far[0].at_eof()
        proxy.switch(Pass())
        assert await rest(far) == b"lost?"
        assert await exactly(client, 5) == b"gone?"


async def test_a_new_connection_to_a_black_hole_is_accepted_and_the_server_hears_nothing_of_it(
    proxy: TcpProxy, server: Server
) -> None:
    proxy.switch(BlackHole())
    async with dialled(proxy) as client:
        await proxy.wait_until(lambda stats: stats.accepted == 1)
        client[1].write(b"hello")
        assert server.all == []
        proxy.switch(Pass())
        assert await exactly(await server.next(), 5) == b"hello"


@linux
async def test_connecting_to_a_black_hole_that_does_not_accept_hangs_until_it_passes(
    proxy: TcpProxy, server: Server
) -> None:
    proxy.switch(BlackHole(accept=False))
    connecting = asyncio.create_task(asyncio.open_connection("127.0.0.1", proxy.port))
    done, _ = await asyncio.wait({connecting}, timeout=0.3)
    assert not done
    proxy.switch(Pass())
    async with asyncio.timeout(GUARD):
        _, writer = await connecting
    writer.close()


@linux
async def test_nobody_answers_keepalive_probes_of_a_frozen_client(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, far):
        sock = far[1].get_extra_info("socket")
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 1)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        proxy.freeze()
        client[1].transport.abort()
        with pytest.raises(TimeoutError, match="timed out"):
            await rest(far)


async def test_a_frozen_connection_stays_open_though_its_client_is_gone_and_new_ones_pass(
    proxy: TcpProxy, server: Server
) -> None:
    async with linked(proxy, server) as (client, far):
        proxy.freeze()
        client[1].transport.abort()
        await a_while(proxy, server)
        proxy.switch(Pass())
        await a_while(proxy, server)
        assert not far[0].at_eof()
        await proxy.wait_until(lambda stats: (stats.open, stats.frozen) == (0, 1), timeout=GUARD)
        await proxy.drop_frozen()
        with pytest.raises(ConnectionResetError):
            await rest(far)
        assert proxy.stats.frozen == 0


async def test_delayed_bytes_arrive_late_in_order_and_at_once_after_a_switch(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, far):
        loop = asyncio.get_running_loop()
        proxy.switch(Delay(0.2))
        began = loop.time()
        client[1].write(b"one ")
        client[1].write(b"two")
        assert await exactly(far, 7) == b"one two"
        assert loop.time() - began >= 0.2
        proxy.switch(Delay(3600))
        client[1].write(b"three")
        await a_while(proxy, server)
        assert buffered(far) == b""
        proxy.switch(Pass())
        assert await exactly(far, 5) == b"three"


async def test_throttled_bytes_take_their_time_and_the_rest_passes_after_a_switch(
    proxy: TcpProxy, server: Server
) -> None:
    async with linked(proxy, server) as (client, far):
        loop = asyncio.get_running_loop()
        proxy.switch(Throttle(10_000))
        began = loop.time()
        client[1].write(b"x" * 3_000)
        await exactly(far, 3_000)
        assert loop.time() - began >= 0.2
        proxy.switch(Throttle(1))
        client[1].write(b"y" * 100_000)
        await exactly(far, 1)
        proxy.switch(Pass())
        await exactly(far, 99_999)


async def test_a_reset_reaches_both_ends_and_new_connections(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, far):
        proxy.switch(Reset())
        for end in (client, far):
            with pytest.raises(ConnectionResetError):
                await rest(end)
        async with dialled(proxy) as late:
            with pytest.raises(ConnectionResetError):
                await rest(late)
        assert len(server.all) == 1


async def test_existing_connections_can_be_reset_while_new_ones_pass(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, _):
        proxy.switch(Reset(), new=False)
        with pytest.raises(ConnectionResetError):
            await rest(client)
        async with linked(proxy, server):
            pass


async def test_new_connections_can_be_treated_otherwise_than_existing_ones(proxy: TcpProxy, server: Server) -> None:
    async with linked(proxy, server) as (client, far):
        proxy.switch(Refuse(), existing=False)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        client[1].write(b"still here")
        assert await exactly(far, 10) == b"still here"
        proxy.switch(Pass())
        async with linked(proxy, server):
            pass


@pytest.mark.parametrize("toward", ["client", "server"])
async def test_a_half_closed_connection_goes_on_the_other_way(proxy: TcpProxy, server: Server, toward: str) -> None:
    async with linked(proxy, server) as ends:
        told, other = ends if toward == "client" else reversed(ends)
        proxy.switch(HalfClose(toward=toward))
        assert await rest(told) == b""
        other[1].write(b"into the void" * 100_000)
        told[1].write(b"still talking")
        assert await exactly(other, 13) == b"still talking"
        told[1].write_eof()
        assert await rest(other) == b""


@pytest.mark.parametrize("after", [0, 1, 70_000])
async def test_a_connection_is_cut_after_so_many_bytes(proxy: TcpProxy, server: Server, after: int) -> None:
    async with linked(proxy, server) as (client, far):
        proxy.switch(Cut(after))
        far[1].write(b"x" * 200_000)
        got = bytearray()
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(GUARD):
                while piece := await client[0].read(100_000):
                    got += piece
        assert len(got) == after
        with contextlib.suppress(ConnectionResetError):
            assert await rest(far) == b""


async def test_a_reader_that_does_not_read_stops_the_writer_soon(proxy: TcpProxy, server: Server) -> None:
    """Little is held: 64 MiB don't fit into the proxy and the kernel's buffers beside it."""
    async with linked(proxy, server) as (client, far):
        proxy.switch(Throttle(1))
        client[1].transport.set_write_buffer_limits(high=0)
        client[1].write(b"x" * 64 * 1024 * 1024)
        draining = asyncio.create_task(client[1].drain())
        await a_while(proxy, server)
        held = sum(way.size for link in proxy._links for way in link._ways)
        assert held <= 512 * 1024
        assert not draining.done()
        proxy.switch(Pass())
        await exactly(far, 64 * 1024 * 1024)
        await draining


async def test_a_server_that_is_away_resets_the_client_and_is_reached_when_it_is_back(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with TcpProxy("127.0.0.1", port) as proxy:
        async with dialled(proxy) as client:
            with pytest.raises(ConnectionResetError):
                await rest(client)
        back = await asyncio.start_server(server.accept, "127.0.0.1", port)
        async with linked(proxy, server):
            pass
        back.close()


async def test_its_end_closes_every_connection_frozen_ones_too(server: Server) -> None:
    async with TcpProxy("127.0.0.1", server.port) as proxy, linked(proxy, server) as (_, first):
        proxy.freeze()
        async with linked(proxy, server) as (_, second):
            await proxy.stop()
            for far in (first, second):
                with pytest.raises(ConnectionResetError):
                    await rest(far)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        assert (proxy.stats.open, proxy.stats.frozen) == (0, 0)
