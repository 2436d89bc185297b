"""Look into Pydantic AI toolsets: which tools they hold by which names, and with what policy.

Only function toolsets can be read without a run; what other toolsets (MCP servers, dynamic ones) hold is known
while a run is going, and gets the default policy, effect `once`, unless it is a function that carries its own.

A wrapper may check, filter or change a call, and it needs the run to do so. So a tool can be called without a run only
if nothing stands between its function and the caller that only a run can ask.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pydantic_ai import Tool
from pydantic_ai.toolsets import (
    AbstractToolset,
    ApprovalRequiredToolset,
    CombinedToolset,
    DeferredLoadingToolset,
    FilteredToolset,
    FunctionToolset,
    IncludeReturnSchemasToolset,
    PrefixedToolset,
    RenamedToolset,
    SetMetadataToolset,
    ToolsetTool,
    WrapperToolset,
)

from pilothouse.tools.decorator import policy_of
from pilothouse.tools.policy import ToolPolicy

Named = Callable[[str], str]

Asks = Literal["never", "by_call", "always"]
"""When a person is asked about a tool's calls: `by_call` if it is not known before the call."""

_ORDER: tuple[Asks, ...] = ("never", "by_call", "always")

_TRANSPARENT = (FunctionToolset, CombinedToolset, PrefixedToolset, RenamedToolset)
_ASK_NOBODY = frozenset({FilteredToolset, DeferredLoadingToolset, SetMetadataToolset, IncludeReturnSchemasToolset})
_BEHAVIOUR = ("get_tools", "call_tool", "for_run", "for_run_step", "__aenter__")


@dataclass(frozen=True, kw_only=True)
class FoundTool:
    """A function tool as the model will know it.

    Attributes:
        name: after prefixes and renames.
        tool: Pydantic AI's tool.
        policy: ours, with that name.
        needs_run: it can't be called without a run, because something that only a run can ask stands before it: a
            wrapper, a `prepare` function, a validator of arguments, a `RunContext`, a capability of the agent.
        asks: when a person is asked, by its policy or by what stands before it.
    """

    name: str
    tool: Tool[Any]
    policy: ToolPolicy
    needs_run: bool
    asks: Asks


def function_toolset(functions: Sequence[Callable[..., Any] | Tool[Any]], *, id: str) -> FunctionToolset[Any]:  # noqa: A002 - Pydantic AI's own word
    """A toolset of functions, decorated or not. Approval is the run's business, so it is not marked for Pydantic AI.

    A `Tool` given here is copied, since toolsets write their defaults into the tools they hold.
    """
    return FunctionToolset([as_tool(given) for given in functions], id=id)


def as_tool(given: Callable[..., Any] | Tool[Any]) -> Tool[Any]:
    """A Pydantic AI tool for a function; a copy of one that is a tool already."""
    return copy(cast("Tool[Any]", given)) if isinstance(given, Tool) else Tool(given)


def find_tools(toolsets: Iterable[AbstractToolset[Any]], *, decided_in_run: bool = False) -> list[FoundTool]:
    """All function tools in these toolsets, seen through wrappers, prefixes and renames.

    Args:
        decided_in_run: something else that only a run can ask decides about all their calls.
    """
    around = _Around(wrapped=True, asks="by_call") if decided_in_run else _Around()
    found: list[FoundTool] = []
    for toolset in toolsets:
        _walk(toolset, lambda name: name, found, around)
    return found


def tool_needs_run(tool: Tool[Any]) -> bool:
    """Whether a tool itself has parts that only a run can serve."""
    return tool.takes_ctx or tool.defer_loading or _is_prepared(tool)


def asks_of(tool: Tool[Any], policy: ToolPolicy) -> Asks:
    """When a person is asked about the calls of a tool that nothing stands before.

    The tool's own code may ask too (`ApprovalRequired`); nobody knows before it is called.
    """
    return "always" if policy.approval else "by_call" if _is_prepared(tool) else "never"


def more_often(asks: Asks, other: Asks) -> Asks:
    """The stricter of two."""
    return asks if _ORDER.index(asks) >= _ORDER.index(other) else other


def takes_over(thing: object, base: type, name: str) -> bool:
    """Whether an object has another method of that name than `base` gives it: by its class, or set on the object."""
    return getattr(getattr(thing, name), "__func__", None) is not getattr(base, name)


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


def policy_of_tool(tool: Tool[Any], name: str, *, toolset_timeout: float | None = None) -> ToolPolicy:
    """The decorated function's policy under the name the tool goes by; else what the tool itself says.

    What Pydantic AI's own `Tool(...)` asks for (approval, a timeout) is kept: it can make a policy stricter.

    Args:
        toolset_timeout: limit of the toolset's tools that set none, seconds.
    """
    carried = policy_of(tool.function)
    policy = replace(carried or default_policy(name), name=name, description=tool.description or "")
    if tool.requires_approval:
        policy = replace(policy, approval=True)
    if policy.timeout_seconds is None:
        policy = replace(policy, timeout_seconds=tool.timeout if tool.timeout is not None else toolset_timeout)
    return policy


def policy_in_run(known: ToolPolicy, tool: ToolsetTool[Any] | None) -> ToolPolicy:
    """The policy of a tool as a run holds it.

    A name proves little in a run: a `prepare` function or a wrapper may have given the tool another one, and a dynamic
    toolset's tools were not there at registration. The policy that the function itself carries counts, made stricter by
    what is known under the name.

    Args:
        known: the policy under the tool's name.
        tool: as the run's tool manager has it.
    """
    carried = policy_of(_function_of(tool))
    return known if carried is None else stricter(carried, known)


def stricter(policy: ToolPolicy, other: ToolPolicy) -> ToolPolicy:
    """A policy with another one's approval, scopes and timeout (the shorter one) too."""
    timeouts = [seconds for seconds in (policy.timeout_seconds, other.timeout_seconds) if seconds is not None]
    return replace(
        policy,
        approval=policy.approval or other.approval,
        four_eyes=policy.four_eyes or other.four_eyes,
        scopes=tuple(dict.fromkeys((*policy.scopes, *other.scopes))),
        timeout_seconds=min(timeouts, default=None),
    )


def _function_of(tool: ToolsetTool[Any] | None) -> object:
    """The function that a tool of a run calls in the end, seen through combined toolsets; None if it is no function."""
    while (inner := getattr(tool, "source_tool", None)) is not None:
        tool = inner
    return getattr(getattr(getattr(tool, "call_func", None), "__self__", None), "function", None)


@dataclass(frozen=True, kw_only=True)
class _Around:
    """What stands before a toolset's tools."""

    wrapped: bool = False
    asks: Asks = "never"

    def with_toolset(self, toolset: AbstractToolset[Any]) -> "_Around":
        if _is_transparent(toolset):
            return self
        return _Around(wrapped=True, asks=more_often(self.asks, _asks_by(toolset)))


def _asks_by(toolset: AbstractToolset[Any]) -> Asks:
    """When a toolset that is not transparent asks a person: one nobody knows may."""
    if type(toolset) is ApprovalRequiredToolset:
        usual = toolset.approval_required_func is ApprovalRequiredToolset.approval_required_func
        return "always" if usual else "by_call"
    return "never" if type(toolset) in _ASK_NOBODY else "by_call"


def _is_prepared(tool: Tool[Any]) -> bool:
    """Whether code of somebody's own looks at a tool, or at its arguments, before it is called."""
    own = takes_over(tool, Tool, "prepare_tool_def")
    return own or tool.prepare is not None or tool.args_validator is not None


def _is_transparent(toolset: AbstractToolset[Any]) -> bool:
    """Whether a toolset does nothing but hold functions, combine or rename: what it does without a run is all it does.

    One that takes one of the deciding methods over is none.
    """
    kind = next((kind for kind in _TRANSPARENT if isinstance(toolset, kind)), None)
    return kind is not None and not any(takes_over(toolset, kind, name) for name in _BEHAVIOUR)


def _walk(toolset: AbstractToolset[Any], named: Named, found: list[FoundTool], around: _Around) -> None:
    around = around.with_toolset(toolset)
    if isinstance(toolset, FunctionToolset):
        found.extend(
            _found(tool, named(original), around, timeout=toolset.timeout) for original, tool in toolset.tools.items()
        )
    elif isinstance(toolset, CombinedToolset):
        for inner in toolset.toolsets:
            _walk(inner, named, found, around)
    elif isinstance(toolset, PrefixedToolset):
        prefix = toolset.prefix
        _walk(toolset.wrapped, lambda name: named(f"{prefix}_{name}"), found, around)
    elif isinstance(toolset, RenamedToolset):
        new_names = {original: new for new, original in toolset.name_map.items()}
        _walk(toolset.wrapped, lambda name: named(new_names.get(name, name)), found, around)
    elif isinstance(toolset, WrapperToolset):
        _walk(toolset.wrapped, named, found, around)


def _found(tool: Tool[Any], name: str, around: _Around, *, timeout: float | None) -> FoundTool:
    policy = policy_of_tool(tool, name, toolset_timeout=timeout)
    return FoundTool(
        name=name,
        tool=tool,
        policy=policy,
        needs_run=around.wrapped or tool_needs_run(tool),
        asks=more_often(around.asks, asks_of(tool, policy)),
    )
