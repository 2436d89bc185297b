"""How uvicorn is configured wherever Pilothouse is the server."""

from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from pilothouse.server.connections import Connections
from pilothouse.server.limits import Limits
from pilothouse.server.protocol import HttpProtocol
from pilothouse.server.websocket import WebSocketProtocol
from pilothouse.settings import ServerSettings


class ServerConfig(uvicorn.Config):
    """A configuration of uvicorn whose connections are bounded, all together.

    Args:
        options: options of `uvicorn.Config`; they win over ours.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, **options: Any) -> None:
        self.connections = Connections(Limits.of(settings))
        http: Any = partial(HttpProtocol, connections=self.connections)
        websocket: Any = partial(WebSocketProtocol, connections=self.connections)
        ours: dict[str, Any] = {
            "http": http,
            "ws": websocket,
            "ws_max_size": settings.max_message_bytes,
            "ws_per_message_deflate": False,  # a small frame must not become a large one
            "timeout_keep_alive": settings.keep_alive_seconds,
            "forwarded_allow_ips": list(settings.trusted_proxies),
            "log_config": None,
            "access_log": False,
            "server_header": False,
        }
        super().__init__(app, **{**ours, **options})
