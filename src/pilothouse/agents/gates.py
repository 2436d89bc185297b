"""Whether an agent itself may decide about its tools' calls, by its capabilities or its class.

What decides there needs a run to do so. So a tool of such an agent is not offered outside runs.
"""

from functools import cache
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.capabilities import (
    AbstractCapability,
    CombinedCapability,
    FileUnderstanding,
    IncludeToolReturnSchemas,
    Instrumentation,
    ModelFallback,
    ProcessHistory,
    RaiseContentFilterError,
    ReinjectSystemPrompt,
    SetToolMetadata,
    UseThreadExecutor,
)

from pilothouse.tools.toolsets import takes_over

_CONTRIBUTIONS = frozenset(
    {
        "apply",
        "combine",
        "for_agent",
        "from_spec",
        "get_default_conversation_id",
        "get_default_run_id",
        "get_description",
        "get_instructions",
        "get_model",
        "get_model_settings",
        "get_native_tools",
        "get_ordering",
        "get_run_clock",
        "get_run_start_time",
        "get_serialization_name",
        "get_toolset",
        "get_workspace",
        "get_wrapper_model",
        "prefix_tools",
        "resolve_model_id",
        "visit_and_replace",
    }
)
"""Methods that name, order or find a capability, or add to an agent. A toolset that is added is looked at by itself."""

_OBSERVERS = frozenset({"listens_to", "on_event", "on_run_error", "wrap_run_event_stream"})

_OUTPUT = frozenset(
    {
        "after_output_process",
        "after_output_validate",
        "before_output_process",
        "before_output_validate",
        "on_output_process_error",
        "on_output_validate_error",
        "prepare_output_tools",
        "wrap_output_process",
        "wrap_output_validate",
    }
)

_ANSWERS = frozenset({"handle_deferred_tool_calls"})
"""Only asked after something else has asked for a person."""

_HARMLESS_METHODS = _CONTRIBUTIONS | _OBSERVERS | _OUTPUT | _ANSWERS

_HARMLESS_KINDS: frozenset[type[AbstractCapability[Any]]] = frozenset(
    {
        CombinedCapability,  # what it combines is visited
        FileUnderstanding,
        IncludeToolReturnSchemas,
        Instrumentation,
        ModelFallback,
        ProcessHistory,
        RaiseContentFilterError,
        ReinjectSystemPrompt,
        SetToolMetadata,
        UseThreadExecutor,
    }
)
"""Pydantic AI's own that have further hooks and leave calls of tools as they are. Subclasses of them are not meant."""


def decides_about_calls(agent: AbstractAgent[Any, Any]) -> bool:
    """Whether an agent may check, change, hide or refuse a call of any of its tools during a run.

    What is not known to leave calls alone counts, so that a hook of a later Pydantic AI does too. Capabilities that are
    added to one run (ours among them) are not the agent's and don't count.
    """
    while isinstance(agent, WrapperAgent):
        if _runs_its_own_way(agent, WrapperAgent):
            return True
        agent = agent.wrapped
    return _runs_its_own_way(agent, Agent) or any(_decides(item) for item in _capabilities(agent))


def _runs_its_own_way(agent: AbstractAgent[Any, Any], base: type[AbstractAgent[Any, Any]]) -> bool:
    return any(takes_over(agent, base, name) for name in ("run", "iter"))


def _decides(capability: AbstractCapability[Any]) -> bool:
    if type(capability) in _HARMLESS_KINDS | _kinds_of_every_agent():
        return any(name in vars(capability) for name in _hooks())
    return any(takes_over(capability, AbstractCapability, name) for name in _hooks())


def _capabilities(agent: AbstractAgent[Any, Any]) -> list[AbstractCapability[Any]]:
    found: list[AbstractCapability[Any]] = []
    agent.root_capability.apply(found.append)
    return found


@cache
def _hooks() -> tuple[str, ...]:
    names = [name for name in dir(AbstractCapability) if not name.startswith("_") and name not in _HARMLESS_METHODS]
    return tuple(name for name in names if callable(getattr(AbstractCapability, name)))


@cache
def _kinds_of_every_agent() -> frozenset[type[AbstractCapability[Any]]]:
    """Pydantic AI gives every agent some, for its own workings."""
    return frozenset(type(capability) for capability in _capabilities(Agent()))
