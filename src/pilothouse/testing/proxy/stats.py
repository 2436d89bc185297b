"""What a proxy has seen."""

from dataclasses import dataclass


@dataclass(slots=True)
class ProxyStats:
    """Counts since the start.

    Attributes:
        accepted: connections of clients.
        open: those that have not ended, frozen ones left out.
        frozen: those that `TcpProxy.freeze` has left to the server.
        to_server: bytes passed on to the server.
        to_client: bytes passed on to clients.
    """

    accepted: int = 0
    open: int = 0
    frozen: int = 0
    to_server: int = 0
    to_client: int = 0
