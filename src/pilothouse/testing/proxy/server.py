"""The proxy: it listens, and treats each connection as its mode says."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pilothouse.testing.provider.changes import Changes
from pilothouse.testing.proxy.link import Link
from pilothouse.testing.proxy.modes import BlackHole, Mode, Pass, Refuse
from pilothouse.testing.proxy.mute import mute, unmute
from pilothouse.testing.proxy.stats import ProxyStats

_BACKLOG = 512


class TcpProxy:
    """Listens on 127.0.0.1 and forwards to a server, as long as the `async with` block lasts.

    It belongs to the event loop that entered it. A connection holds at most 512 KiB: a slow reader slows its writer.

    Args:
        host: the server's host.
        port: the server's port.
        listen_port: where to listen; 0: a free port.
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._server = (host, port)
        self._port = listen_port
        self._mode: Mode = Pass()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._changes = Changes()
        self.stats = ProxyStats()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """Where it listens; known once started."""
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"127.0.0.1:{self._port}"

    @property
    def mode(self) -> Mode:
        """How new connections are treated."""
        return self._mode

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        self._listen()

    async def stop(self) -> None:
        """Stop listening and close all connections, frozen ones too, with a reset."""
        await self._stop_listening()
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def switch(self, mode: Mode, *, existing: bool = True, new: bool = True) -> None:
        """Treat connections like this from now on.

        Args:
            existing: those that are open, except frozen ones.
            new: those to come.
        """
        if existing:
            for link in self._links:
                link.switch(mode)
        if new:
            self._mode = mode
            self._apply_to_listener()

    def freeze(self) -> None:
        """Leave all open connections to the server as a host does that lost its power: nothing more is sent, not even
        the end of the connection when the client's process dies. New connections are treated as before.
        """
        for link in self._links:
            if not link.frozen:
                link.freeze()
                self.stats.open -= 1
                self.stats.frozen += 1
        self._changes.notify()

    async def drop_frozen(self) -> None:
        """Close frozen connections with a reset, as when the host is back and knows nothing of them."""
        tasks = [task for link, task in self._links.items() if link.frozen]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def wait_until(self, holds: Callable[[ProxyStats], bool], *, timeout: float = 10) -> None:
        """Return once the numbers of connections fulfil a condition; counts of bytes are not watched.

        Raises:
            TimeoutError: they did not within `timeout` seconds.
        """
        await self._changes.wait_until(lambda: holds(self.stats), what=f"it, with {self.stats},", timeout=timeout)

    # --- listening ---

    def _listen(self) -> None:
        """Bind, and listen unless the mode refuses: a port that is only bound refuses and stays ours."""
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(("127.0.0.1", self._port))
            self._port = listener.getsockname()[1]
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self._apply_to_listener()

    def _apply_to_listener(self) -> None:
        listener = self._listener
        if listener is None:
            return
        if isinstance(self._mode, Refuse):
            self._refuse(listener)
            return
        if self._accepting is None:
            listener.listen(_BACKLOG)
            self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))
        if isinstance(self._mode, BlackHole) and not self._mode.accept:
            mute(listener)
        else:
            unmute(listener)

    def _refuse(self, listener: socket.socket) -> None:
        if self._accepting is None:
            return
        self._accepting.cancel()
        self._accepting = None
        listener.close()  # who waits to be accepted gets a reset
        self._listen()

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._accepting = self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # the client has gone again
            client.setblocking(False)
            link = Link(client, self._server, self._mode, self.stats)
            self._links[link] = loop.create_task(self._run(link))
            self.stats.accepted += 1
            self.stats.open += 1
            self._changes.notify()

    async def _run(self, link: Link) -> None:
        try:
            with contextlib.suppress(OSError):
                await link.run()
        finally:
            del self._links[link]
            if link.frozen:
                self.stats.frozen -= 1
            else:
                self.stats.open -= 1
            self._changes.notify()
