"""Pilothouse: the production backend for AI agents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pilothouse.version import VERSION as __version__  # noqa: N811 - the name everybody looks for

if TYPE_CHECKING:
    from pilothouse.app import Pilothouse
    from pilothouse.tools.context import current_tool_call
    from pilothouse.tools.decorator import tool
    from pilothouse.tools.results import tool_error

__all__ = ["Pilothouse", "__version__", "current_tool_call", "tool", "tool_error"]

_HOMES = {
    "Pilothouse": "pilothouse.app",
    "current_tool_call": "pilothouse.tools.context",
    "tool": "pilothouse.tools.decorator",
    "tool_error": "pilothouse.tools.results",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: `pilothouse --help` needs no agent framework, nor does `import pilothouse`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
