"""The `@tool` functions that can be called directly, by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Tool

from pilothouse.errors import NotFound, StartupError
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.toolsets import as_tool, policy_of_tool


@dataclass(frozen=True, kw_only=True)
class RegisteredTool:
    """A tool that can be called directly.

    Attributes:
        policy: how it may be called.
        tool: its function, schema and validator, as Pydantic AI sees them.
    """

    policy: ToolPolicy
    tool: Tool[Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return self.tool.function_schema.json_schema

    @property
    def needs_run(self) -> bool:
        """Whether it takes a `RunContext`, which only a run has."""
        return self.tool.takes_ctx


class ToolRegistry:
    """Tools by name, in the order they were added."""

    def __init__(self) -> None:
        self._tools: dict[str, RegisteredTool] = {}

    def add(self, function: Callable[..., Any] | Tool[Any]) -> RegisteredTool:
        """Register a function; the same one again is no error.

        Raises:
            StartupError: another function has that name.
        """
        tool = as_tool(function)
        known = self._tools.get(tool.name)
        if known is not None:
            if known.tool.function == tool.function:
                return known
            raise StartupError(
                f"Two different tools are named {tool.name}. Give one of them another name: @tool(name='...')."
            )
        registered = RegisteredTool(policy=policy_of_tool(tool, tool.name), tool=tool)
        self._tools[tool.name] = registered
        return registered

    def get(self, name: str) -> RegisteredTool:
        """The tool of that name.

        Raises:
            NotFound: there is none; the sentence lists those there are.
        """
        if name not in self._tools:
            names = ", ".join(self._tools) or "none"
            raise NotFound(f"There is no tool {name[:64]!r}. Tools here: {names}.", code="tool_not_found")
        return self._tools[name]

    def __iter__(self) -> Iterator[RegisteredTool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)
