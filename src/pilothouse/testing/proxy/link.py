"""One proxied connection: two ways, each with a reader, a bounded buffer and a writer.

The mode is looked at again after every wait, so that a switch takes effect at once, whatever a way is waiting for.
"""

import asyncio
import contextlib
import socket
from collections import deque
from time import monotonic

from pilothouse.testing.proxy.modes import BlackHole, Cut, Delay, End, HalfClose, Mode, Refuse, Reset, Throttle
from pilothouse.testing.proxy.mute import close_with_reset, mute, unmute
from pilothouse.testing.proxy.stats import ProxyStats

_READ_BYTES = 64 * 1024
_WRITE_BYTES = 16 * 1024
_BUFFER_BYTES = 256 * 1024
_THROTTLE_SLICES = 20
"""Of a second: a throttled way sends that often."""


class _Broken(Exception):
    """The connection is over; `reset`: both ends get an RST."""

    def __init__(self, *, reset: bool) -> None:
        self.reset = reset


class _Way:
    """One direction. `waiting` holds what was read, with the time; empty bytes stand for the sender's end."""

    def __init__(self, source: socket.socket, sink: socket.socket, toward: End) -> None:
        self.source, self.sink, self.toward = source, sink, toward
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.passed = 0
        self.cut_from = 0
        self.ended = False

    def put(self, data: bytes) -> None:
        self.waiting.append((monotonic(), data))
        self.size += len(data)

    def take(self, most: int) -> bytes:
        at, data = self.waiting.popleft()
        if len(data) > most:
            self.waiting.appendleft((at, data[most:]))
        self.size -= min(len(data), most)
        return data[:most]


class Link:
    """A client's connection and, once it may pass, ours to the server.

    Args:
        client: connected, non-blocking; closed by `run`.
        server: host and port of the server.
    """

    def __init__(self, client: socket.socket, server: tuple[str, int], mode: Mode, stats: ProxyStats) -> None:
        self._address = server
        self._stats = stats
        self._mode = mode
        self._frozen = False
        self._changed = asyncio.Event()
        self._sockets = [client]
        self._ways: list[_Way] = []
        self._hush()

    @property
    def frozen(self) -> bool:
        """Whether `freeze` was called."""
        return self._frozen

    def switch(self, mode: Mode) -> None:
        """Treat the connection like this from now on. One that is frozen stays so."""
        self._mode = mode
        for way in self._ways:
            way.cut_from = way.passed
        self._hush()
        self._notify()

    def freeze(self) -> None:
        """Say nothing to either end any more and keep both sockets, until `run` is cancelled."""
        self._frozen = True
        self._hush()
        self._notify()

    async def run(self) -> None:
        """Pass data until both ends are done, the connection breaks, or the mode says so. Closes its sockets."""
        reset = True
        try:
            await self._until_heard()
            self._ways = await self._connect()
            await self._pass_both()
            reset = False
        except _Broken as error:
            reset = error.reset
        except OSError:
            pass  # the server can't be reached, or a peer has reset the connection: the other end gets a reset, too
        finally:
            for sock in self._sockets:
                unmute(sock)
                if reset:
                    close_with_reset(sock)
                else:
                    sock.close()

    async def _connect(self) -> list[_Way]:
        loop, client = asyncio.get_running_loop(), self._sockets[0]
        host, port = self._address
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        server = socket.socket(found[0][0], socket.SOCK_STREAM)
        server.setblocking(False)
        self._sockets.append(server)
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(server, found[0][4])
        self._hush()
        return [_Way(client, server, "server"), _Way(server, client, "client")]

    async def _pass_both(self) -> None:
        """Until both ways have ended.

        Raises:
            _Broken, OSError: one of them broke, which breaks the other.
        """
        tasks = [asyncio.create_task(do(way)) for way in self._ways for do in (self._read, self._write)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    # --- one way ---

    async def _read(self, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._silent() or way.size >= _BUFFER_BYTES:
                await self._wait()
            data = await loop.sock_recv(way.source, _READ_BYTES)
            if way.ended:
                if not data:
                    return  # what comes after a half close is thrown away
                continue
            way.put(data)
            self._notify()
            if not data:
                return

    async def _write(self, way: _Way) -> None:
        loop = asyncio.get_running_loop()
        while True:
            seconds = self._seconds_until_sent(way)
            if seconds is None or seconds > 0:
                await self._wait(seconds)
                continue
            mode = self._mode
            if isinstance(mode, HalfClose) and mode.toward == way.toward:
                return self._end(way)
            data = way.take(self._most(way))
            if not data:
                return self._end(way)
            await loop.sock_sendall(way.sink, data)
            self._count(way, len(data))
            self._notify()
            if isinstance(mode, Throttle):
                await self._wait(len(data) / mode.bytes_per_second, for_switch=True)

    def _seconds_until_sent(self, way: _Way) -> float | None:
        """How long the way has to wait before it does its next thing; None: until something changes."""
        mode = self._mode
        if self._silent():
            return None
        if isinstance(mode, Reset):
            raise _Broken(reset=True)
        if isinstance(mode, Cut) and mode.toward == way.toward and way.passed - way.cut_from >= mode.after_bytes:
            raise _Broken(reset=False)
        if isinstance(mode, HalfClose) and mode.toward == way.toward:
            return 0
        if not way.waiting:
            return None
        return way.waiting[0][0] + mode.seconds - monotonic() if isinstance(mode, Delay) else 0

    def _most(self, way: _Way) -> int:
        mode = self._mode
        if isinstance(mode, Throttle):
            return max(1, min(_WRITE_BYTES, int(mode.bytes_per_second / _THROTTLE_SLICES)))
        if isinstance(mode, Cut) and mode.toward == way.toward:
            return max(1, min(_WRITE_BYTES, mode.after_bytes - (way.passed - way.cut_from)))
        return _WRITE_BYTES

    def _end(self, way: _Way) -> None:
        way.ended = True
        way.waiting.clear()
        way.size = 0
        with contextlib.suppress(OSError):  # the other end has closed in the meantime
            way.sink.shutdown(socket.SHUT_WR)
        self._notify()

    def _count(self, way: _Way, size: int) -> None:
        way.passed += size
        if way.toward == "server":
            self._stats.to_server += size
        else:
            self._stats.to_client += size

    # --- the mode ---

    def _silent(self) -> bool:
        return self._frozen or isinstance(self._mode, BlackHole)

    def _hush(self) -> None:
        for sock in self._sockets:
            if self._silent():
                mute(sock)
            else:
                unmute(sock)

    async def _until_heard(self) -> None:
        """Until the mode lets a new connection go on to the server."""
        while self._silent():
            await self._wait()
        if isinstance(self._mode, Reset | Refuse):
            raise _Broken(reset=True)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _wait(self, seconds: float | None = None, *, for_switch: bool = False) -> None:
        """Until something changes, at most so long; `for_switch`: that long unless the mode is switched."""
        mode, give_up = self._mode, None if seconds is None else monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
                while for_switch and self._mode is mode and not self._frozen and monotonic() < (give_up or 0):
                    await self._changed.wait()
