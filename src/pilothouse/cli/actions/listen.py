"""Take an address before anything is started, so that a taken port is the first thing one hears of."""

import errno
import socket

from pilothouse.errors import StartupError


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds the address; nobody can connect before a server listens on it.

    Raises:
        StartupError: the port is taken or not ours to use, or the address is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise StartupError(f"{host!r} is not an address one can listen on. Use 127.0.0.1, 0.0.0.0 or a name.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartupError(refusal(error, host, port)) from None
    listener.set_inheritable(True)
    return listener


def refusal(error: OSError, host: str, port: int) -> str:
    """Why an address can't be had, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is taken by another program. "
            "Stop that, or choose another port with --port (0 picks a free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used without special rights. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine. Choose another one with --host."
    return f"The server can't listen on {host} port {port}: {error.strerror}."


def url_of(listener: socket.socket, host: str) -> str:
    """The address for people and clients of this machine."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"
