"""Look into Pydantic AI toolsets: which tools they hold by which names, and with what policy.

Only function toolsets can be read without a run; what other toolsets (MCP servers, dynamic ones) hold is known
while a run is going, and gets the default policy: effect `once`.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_ai import Tool
from pydantic_ai.toolsets import (
    AbstractToolset,
    CombinedToolset,
    FunctionToolset,
    PrefixedToolset,
    RenamedToolset,
    WrapperToolset,
)

from pilothouse.tools.decorator import policy_of
from pilothouse.tools.policy import ToolPolicy

Named = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class FoundTool:
    """A function tool as the model will know it.

    Attributes:
        name: after prefixes and renames.
        tool: Pydantic AI's tool.
        policy: ours, with that name.
    """

    name: str
    tool: Tool[Any]
    policy: ToolPolicy


def function_toolset(functions: Sequence[Callable[..., Any] | Tool[Any]], *, id: str) -> FunctionToolset[Any]:  # noqa: A002 - Pydantic AI's own word
    """A toolset of functions, decorated or not. Approval is the run's business, so it is not marked for Pydantic AI.

    A `Tool` given here is copied, since toolsets write their defaults into the tools they hold.
    """
    return FunctionToolset([as_tool(given) for given in functions], id=id)


def as_tool(given: Callable[..., Any] | Tool[Any]) -> Tool[Any]:
    """A Pydantic AI tool for a function; a copy of one that is a tool already."""
    return copy(cast("Tool[Any]", given)) if isinstance(given, Tool) else Tool(given)


def find_tools(toolsets: Iterable[AbstractToolset[Any]]) -> list[FoundTool]:
    """All function tools in these toolsets, seen through wrappers, prefixes and renames."""
    found: list[FoundTool] = []
    for toolset in toolsets:
        _walk(toolset, lambda name: name, found)
    return found


def opaque_labels(toolsets: Iterable[AbstractToolset[Any]]) -> list[str]:
    """Labels of the toolsets whose tools are known only during a run."""
    labels: list[str] = []

    def note(leaf: AbstractToolset[Any]) -> None:
        if not isinstance(leaf, FunctionToolset):
            labels.append(leaf.label)

    for toolset in toolsets:
        toolset.apply(note)
    return labels


def default_policy(name: str) -> ToolPolicy:
    """The policy of a tool nobody told us about: effect `once`."""
    return ToolPolicy(name=name)


def policy_of_tool(tool: Tool[Any], name: str) -> ToolPolicy:
    """The decorated function's policy under the name the tool goes by; else what the tool itself says.

    What Pydantic AI's own `Tool(...)` asks for (approval, a timeout) is kept: it can make a policy stricter.
    """
    carried = policy_of(tool.function)
    policy = replace(carried or default_policy(name), name=name, description=tool.description or "")
    if tool.requires_approval:
        policy = replace(policy, approval=True)
    if policy.timeout_seconds is None and tool.timeout is not None:
        policy = replace(policy, timeout_seconds=tool.timeout)
    return policy


def _walk(toolset: AbstractToolset[Any], named: Named, found: list[FoundTool]) -> None:
    if isinstance(toolset, FunctionToolset):
        for original, tool in toolset.tools.items():
            name = named(original)
            found.append(FoundTool(name=name, tool=tool, policy=policy_of_tool(tool, name)))
    elif isinstance(toolset, CombinedToolset):
        for inner in toolset.toolsets:
            _walk(inner, named, found)
    elif isinstance(toolset, PrefixedToolset):
        prefix = toolset.prefix
        _walk(toolset.wrapped, lambda name: named(f"{prefix}_{name}"), found)
    elif isinstance(toolset, RenamedToolset):
        new_names = {original: new for new, original in toolset.name_map.items()}
        _walk(toolset.wrapped, lambda name: named(new_names.get(name, name)), found)
    elif isinstance(toolset, WrapperToolset):
        _walk(toolset.wrapped, named, found)
