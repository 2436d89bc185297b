"""The Host header: whom a request was meant for."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from pilothouse.errors import InvalidRequest

_MOST_CHARS = 262
"""A name of 255 characters, a colon and a port."""
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?")


class HostMiddleware:
    """Refuse HTTP/1.1 without a Host, and any request with two or with one that is none (RFC 9112, section 3.2).

    Two servers in a row may take another one of two Hosts; then one of them checks what the other does not use.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in {"http", "websocket"}:
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1:
                if hosts:
                    raise _bad_host("The request has more than one Host header; send one.")
                if scope.get("http_version") == "1.1":
                    raise _bad_host("The request has no Host header; HTTP/1.1 needs one.")
            elif len(hosts[0]) > _MOST_CHARS or _HOST.fullmatch(hosts[0]) is None:
                raise _bad_host("The Host header has to be a name or an address, with a port where needed.")
        await self._app(scope, receive, send)


def _bad_host(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="bad_host", status=400)
