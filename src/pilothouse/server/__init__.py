"""The embedded HTTP server: uvicorn, with bounds on what a connection may send, how long it may take, and how many
there are.
"""

from pilothouse.server.config import ServerConfig
from pilothouse.server.server import Server

__all__ = ["Server", "ServerConfig"]
