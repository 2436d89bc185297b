"""Make a socket deaf in the kernel: packets for it are dropped before TCP sees them, so that none is acknowledged."""

import contextlib
import ctypes
import socket
import struct
import sys

# From asm-generic/socket.h; the socket module does not name them.
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27

CAN_MUTE = sys.platform == "linux"
"""Whether `mute` works here. Where it does not, the peer's kernel still gets acknowledgments."""

# One instruction of the classic BPF: `ret 0`, keep no byte of any packet.
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
_PROGRAM = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))


def mute(sock: socket.socket) -> None:
    """Drop whatever arrives for this socket, connection requests to a listening one included."""
    if CAN_MUTE:
        with contextlib.suppress(OSError):  # a socket that is closed hears nothing anyway
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM)


def unmute(sock: socket.socket) -> None:
    """Let it hear again; peers' kernels send once more what was dropped, after up to as long as it was deaf."""
    if CAN_MUTE:
        with contextlib.suppress(OSError):  # no filter is attached, or the socket is closed
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def close_with_reset(sock: socket.socket) -> None:
    """Close it so that the peer gets a reset (RST), whatever is still unsent."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
