"""How much a connection may send and how long it may take: the settings, with their defaults worked out."""

import ipaddress
import sys
from dataclasses import dataclass
from typing import Self

from pilothouse.settings import ServerSettings

if sys.platform == "win32":

    def open_files() -> int | None:
        """Most files this process may have open; None: no limit."""
        return None

else:
    import resource

    def open_files() -> int | None:
        """Most files this process may have open; None: no limit."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if soft == resource.RLIM_INFINITY else soft


_MOST_CONNECTIONS = 20_000
_RESERVED_DESCRIPTORS = 64

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one server. Times are seconds.

    Attributes:
        header_bytes: most bytes of a request line and its headers together.
        headers: most headers of a request, and most trailers.
        header_seconds: from the first byte of a request (of a new connection: from its start) to its last header.
        min_bytes_per_second: slowest rate of a request body, and of a reader of a plain response. 0: any rate.
        body_seconds: how often the rate of a body is checked; a body that is complete within it may be slower.
        send_seconds: how often the rate of a reader is checked.
        connections: most open connections.
        connections_per_address: most open connections of one address. 0: no limit.
        proxies: addresses to which `connections_per_address` does not apply.
    """

    header_bytes: int
    headers: int
    header_seconds: float
    min_bytes_per_second: int
    body_seconds: float
    send_seconds: float
    connections: int
    connections_per_address: int
    proxies: tuple[Network, ...]

    @classmethod
    def of(cls, settings: ServerSettings) -> Self:
        """The bounds that `settings` ask for."""
        connections = settings.max_connections or default_connections(open_files())
        per_address = settings.max_connections_per_address
        return cls(
            header_bytes=settings.max_header_bytes,
            headers=settings.max_headers,
            header_seconds=settings.header_seconds,
            min_bytes_per_second=settings.min_bytes_per_second,
            body_seconds=settings.body_seconds,
            send_seconds=settings.send_seconds,
            connections=connections,
            connections_per_address=max(1, connections // 2) if per_address is None else per_address,
            proxies=tuple(ipaddress.ip_network(item) for item in settings.trusted_proxies),
        )

    @property
    def shortest_seconds(self) -> float:
        """The shortest of all times: what watches them must look more often."""
        return min(self.header_seconds, self.body_seconds, self.send_seconds)


def default_connections(descriptors: int | None) -> int:
    """Most connections of a process that may have this many files open (None: any number)."""
    if descriptors is None:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(8, room_for_connections(descriptors)))


def room_for_connections(descriptors: int) -> int:
    """How many of these open files connections may take: a quarter of them, and at least 64, are kept for the database,
    files, models and what tools open.
    """
    return descriptors - max(_RESERVED_DESCRIPTORS, descriptors // 4)
