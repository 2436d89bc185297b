"""Accepts connections, also after the process ran out of file descriptors.

uvloop's own server closes its listening socket at the first `accept` that fails (EMFILE), without a word: the process
lives on and serves nobody.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

from pilothouse.server.connections import Connections

_AT_ONCE = 16
_PAUSE_SECONDS = 0.2
_UNIX = getattr(socket, "AF_UNIX", None)
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts from one listening socket. It has what uvicorn uses of an `asyncio.Server`.

    Without descriptors it closes connections that have made no request, and looks again after a moment; those who
    connect meanwhile wait in the system's queue.
    """

    def __init__(
        self, listener: socket.socket, factory: Callable[[], asyncio.BaseProtocol], connections: Connections
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket."""
        return (self._listener,)

    def start(self, backlog: int) -> None:
        """Listen.

        Raises:
            OSError: another program listens on this address.
            NotImplementedError: this event loop has no readers (Windows).
        """
        self._listener.setblocking(False)
        self._listener.listen(backlog)
        self._resume()

    def close(self) -> None:
        """Accept no more. What was accepted stays."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Until what was just accepted has its protocol."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:  # it left while it waited
                continue
            except OSError as error:
                self._pause("out_of_descriptors" if error.errno in _EXHAUSTED else "accept_failed")
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _pause(self, reason: str) -> None:
        self._connections.count(reason)
        for _ in range(_AT_ONCE):
            if not self._connections.evict():
                break
        self._loop.remove_reader(self._listener)
        self._retry = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            if accepted.family != _UNIX:  # asyncio's loop does so only for sockets whose `proto` is set
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except OSError:  # it is gone already
            accepted.close()
