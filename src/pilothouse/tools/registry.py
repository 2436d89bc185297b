"""The `@tool` functions that were registered, by name, and which of them can be called without a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai import Tool

from pilothouse.errors import NotFound, StartupError
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.toolsets import Asks, as_tool, asks_of, more_often, policy_of_tool, stricter, tool_needs_run


@dataclass(frozen=True, kw_only=True)
class RegisteredTool:
    """A registered tool.

    Attributes:
        policy: how it may be called.
        tool: its function, schema and validator, as Pydantic AI sees them.
        needs_run: it can't be called without a run: see `FoundTool.needs_run`.
        asks: when a person is asked about its calls.
    """

    policy: ToolPolicy
    tool: Tool[Any]
    needs_run: bool
    asks: Asks

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return self.tool.function_schema.json_schema


class ToolRegistry:
    """Tools by name, in the order they were added."""

    def __init__(self) -> None:
        self._tools: dict[str, RegisteredTool] = {}

    def add(
        self,
        function: Callable[..., Any] | Tool[Any],
        *,
        policy: ToolPolicy | None = None,
        needs_run: bool = False,
        asks: Asks = "never",
    ) -> RegisteredTool:
        """Register a function. The same one again is no error: then the stricter terms of the two count for both.

        Args:
            policy: by default the one the function or the tool carries.
            needs_run: something that only a run can ask stands before it.
            asks: when what stands before it asks a person.

        Raises:
            StartupError: another function has that name.
        """
        tool = as_tool(function)
        own = replace(policy or policy_of_tool(tool, tool.name), name=tool.name)
        registered = RegisteredTool(
            policy=own,
            tool=tool,
            needs_run=needs_run or tool_needs_run(tool),
            asks=more_often(asks, asks_of(tool, own)),
        )
        known = self._tools.get(tool.name)
        if known is not None:
            if known.tool.function != tool.function:
                raise StartupError(
                    f"Two different tools are named {tool.name}. Give one of them another name: @tool(name='...')."
                )
            registered = replace(
                known,
                policy=stricter(known.policy, own),
                needs_run=known.needs_run or registered.needs_run,
                asks=more_often(known.asks, registered.asks),
            )
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
