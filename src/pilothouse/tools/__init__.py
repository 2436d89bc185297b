"""Tools: plain functions a model may call, and what Pilothouse must know about calling them."""

from pilothouse.tools.context import ToolCall, current_tool_call
from pilothouse.tools.decorator import policy_of, tool
from pilothouse.tools.policy import Effect, InDoubt, ToolPolicy
from pilothouse.tools.results import tool_error

__all__ = ["Effect", "InDoubt", "ToolCall", "ToolPolicy", "current_tool_call", "policy_of", "tool", "tool_error"]
