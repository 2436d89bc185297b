"""Whether the reader of a response still takes it."""

import asyncio
import struct
import sys
from collections.abc import Iterable

if sys.platform == "linux":
    import fcntl
    import termios

    def _in_kernel(descriptor: int) -> int:
        """Bytes that the peer has not acknowledged (SIOCOUTQ, tcp(7))."""
        return struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0]

else:

    def _in_kernel(descriptor: int) -> int:  # noqa: ARG001 - unknown there
        return 0


def unsent_bytes(transport: asyncio.Transport) -> int:
    """What the reader has not taken of what was written; 0 once all of it is in the system's hands.

    The system takes more from us in pieces of up to a third of its buffer, which is megabytes. So what it still holds
    is counted too: else a reader of some 40 KB a second would seem to stand still for half a minute.
    """
    size = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket") if size else None
    if connection is not None:
        try:
            size += _in_kernel(connection.fileno())
        except OSError:  # it has just been closed
            return size
    return size


def is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether an answer with these headers is one whose reader waits for events, and may take its time."""
    return any(
        name.lower() == b"content-type" and value.strip().lower().startswith(b"text/event-stream")
        for name, value in headers
    )


class SendWatch:
    """Measures how much of the transport's buffer is taken in each period.

    Args:
        seconds: length of a period.
        least: bytes that must leave the buffer in each period while it holds any.
    """

    __slots__ = ("_least", "_seconds", "_size", "_until")

    def __init__(self, seconds: float, least: float) -> None:
        self._seconds = seconds
        self._least = least
        self._size = 0
        self._until: float | None = None

    def reset(self) -> None:
        """It makes progress: begin a new period at the next look."""
        self._until = None

    def stalled(self, now: float, size: int) -> bool:
        """Whether too little was taken; `size` bytes are left now."""
        if not size:
            self._until = None
        elif self._until is None:
            self._until, self._size = now + self._seconds, size
        elif now >= self._until:
            if self._size - size < self._least:
                return True
            self._until, self._size = now + self._seconds, size
        return False
