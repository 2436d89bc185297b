"""Who may call without a token in local development mode: programs and pages of this machine, and nobody else.

The server can't see the difference between its user and a stranger, so everything that could be a stranger is refused:
another machine, a proxy in front (its peer is this machine, whoever its client is), a name that a stranger can point
here (DNS rebinding), and a page of another site that is open in the user's browser. What a caller says of itself only
counts against it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pilothouse.errors import Forbidden
from pilothouse.kit.addresses import is_loopback
from pilothouse.kit.origins import parse_host, parse_origin

_FORWARDING = frozenset(
    {
        "cdn-loop",
        "client-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "forwarded",
        "proxy-client-ip",
        "true-client-ip",
        "via",
        "x-appengine-user-ip",
        "x-azure-clientip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-external-address",
        "x-forwarded",
        "x-host",
        "x-original-host",
        "x-proxyuser-ip",
        "x-real-ip",
        "x-remote-addr",
        "x-remote-ip",
    }
)
_FORWARDING_PREFIXES = ("cf-", "forwarded-", "x-forwarded-", "x-original-forwarded-")


def require_local(scope: Mapping[str, Any]) -> None:
    """Go on only with a request (or WebSocket) that comes from this machine.

    Args:
        scope: of ASGI.

    Raises:
        Forbidden: `local_mode`; the message says what gave it away, and what to do.
    """
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    reason = (
        _foreign_peer(scope.get("client"), scope.get("server"))
        or _forwarded(name for name, _ in headers)
        or _foreign_host([value for name, value in headers if name == "host"])
        or _foreign_page(
            [value for name, value in headers if name == "origin"],
            [value for name, value in headers if name == "sec-fetch-site"],
        )
    )
    if reason is not None:
        raise Forbidden(
            f"In local development mode, {reason}, or send a token (pilothouse keys create).", code="local_mode"
        )


def _foreign_peer(client: Sequence[Any] | None, server: Sequence[Any] | None) -> str | None:
    if client is None:
        if server is not None and server[1] is None:  # a Unix socket: its path, and no port
            return None
        return "the server must see who is calling: serve with `pilothouse serve`"
    return None if is_loopback(str(client[0])) else "only this machine may call without a token: call from there"


def _forwarded(names: Any) -> str | None:
    for name in names:
        if name in _FORWARDING or name.startswith(_FORWARDING_PREFIXES):
            return f"a request may not come through a proxy ({name}): call the server itself"
    return None


def _foreign_host(hosts: Sequence[str]) -> str | None:
    if len(hosts) == 1:
        host = parse_host(hosts[0])
        if host is not None and _is_near(host[0]):
            return None
    return "the server has one name: open it as http://127.0.0.1 or http://localhost"


def _foreign_page(origins: Sequence[str], sites: Sequence[str]) -> str | None:
    if all(_is_near_origin(origin) for origin in origins) and "cross-site" not in (site.strip() for site in sites):
        return None
    return "pages of other sites may not call: use a page of this machine under the same name"


def _is_near_origin(origin: str) -> bool:
    parsed = parse_origin(origin)
    return parsed is not None and _is_near(parsed.host)


def _is_near(host: str) -> bool:
    """A loopback address, or a name that browsers resolve to one without asking anybody (RFC 6761, section 6.3)."""
    return is_loopback(host) or host.lower().endswith(".localhost")
