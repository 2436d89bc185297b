"""Pilothouse: the production backend for AI agents."""

from pilothouse.app import Pilothouse
from pilothouse.tools.context import current_tool_call
from pilothouse.tools.decorator import tool
from pilothouse.tools.results import tool_error
from pilothouse.version import VERSION as __version__

__all__ = ["Pilothouse", "__version__", "current_tool_call", "tool", "tool_error"]
