"""Addresses inside the application."""

from starlette.types import Scope


def path_of(scope: Scope) -> str:
    """The path of a request without the prefix under which the application is mounted."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :]
    return path
