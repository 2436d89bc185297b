"""Which page a browser says a request comes from (`Origin`, RFC 6454), and which server it was sent to (`Host`)."""

import re
from dataclasses import dataclass

_HOST = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5})?)?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"(?P<scheme>[Hh][Tt][Tt][Pp][Ss]?)://{_HOST}")
_PORTS = {"http": 80, "https": 443}
_MOST_CHARS = 512
_LARGEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a page was loaded from: `http` or `https`, the host in lower case (IPv6 in brackets), the port."""

    scheme: str
    host: str
    port: int

    def is_of(self, host: str) -> bool:
        """Whether the page was loaded from the server that a `Host` header names; without a port, that of our scheme.

        The scheme is not compared: a server behind a proxy that ends TLS does not see it.
        """
        authority = parse_host(host)
        if authority is None:
            return False
        name, port = authority
        return (name, _PORTS[self.scheme] if port is None else port) == (self.host, self.port)


def parse_origin(text: str) -> Origin | None:
    """The origin of a page, or None for everything else: `null`, other schemes, users, paths, what is malformed."""
    match = _ORIGIN.fullmatch(text) if len(text) <= _MOST_CHARS else None
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or _PORTS[scheme])
    return Origin(scheme, match["host"].lower(), port) if port <= _LARGEST_PORT else None


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Name in lower case (IPv6 in brackets) and port of a `Host` header, or None if it is malformed."""
    match = _AUTHORITY.fullmatch(text) if len(text) <= _MOST_CHARS else None
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    return None if port is not None and port > _LARGEST_PORT else (match["host"].lower(), port)
