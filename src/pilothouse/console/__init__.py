"""The web console: static pages over the public HTTP API.

Nothing of the console runs on the server, and it has no route of its own besides its files: what a person can do
there is what their token can do at `/v1`.
"""

from pilothouse.console.routes import console_router, mount_console

__all__ = ["console_router", "mount_console"]
