"""Which agents are served, and how."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic_ai import Tool
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset

from pilothouse.agents.gates import decides_about_calls
from pilothouse.agents.introspect import (
    has_system_prompt,
    own_description,
    refuse_tools_as_output,
    structured_output_schema,
)
from pilothouse.agents.limits import RunLimits
from pilothouse.agents.prompts import Prompt, load_prompt
from pilothouse.errors import NotFound, StartupError
from pilothouse.settings import RunSettings
from pilothouse.tools.decorator import policy_of
from pilothouse.tools.policy import ToolPolicy
from pilothouse.tools.registry import ToolRegistry
from pilothouse.tools.toolsets import FoundTool, default_policy, find_tools, function_toolset


@dataclass(frozen=True, kw_only=True)
class DepsRequest:
    """What a `deps=` function is told about the run it makes dependencies for.

    Attributes:
        agent: name of the agent.
        run_id: the run.
        conversation_id: its conversation.
        tenant: whose data this is about.
        subject: who is calling.
        scopes: what the caller may do.
        context: what the caller sent as `context`.
    """

    agent: str
    run_id: str
    conversation_id: str | None
    tenant: str
    subject: str
    scopes: frozenset[str] = frozenset()
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class ServedAgent:
    """A Pydantic AI agent, unchanged, and what was said about serving it.

    Attributes:
        name: what callers ask for.
        description: for people choosing one.
        agent: the agent as it was given.
        model: given here, else the prompt's, else the agent's own; None: the configured default.
        fallback: models tried in this order when `model` can't answer.
        model_settings: given here, over the prompt's; None: only the agent's own.
        limits: of its runs.
        prompt: the prompt sent before the conversation, or None.
        toolsets: to be given to each run, beside the agent's own.
        policies: of the function tools known at registration, by name.
        deps: makes the dependencies of a run; may be async. None: the agent needs none.
        output_schema: JSON schema of a structured answer; None where the answer is text.
        has_system_prompt: the agent has `system_prompt`s of its own (instructions are not meant).
    """

    name: str
    description: str
    agent: AbstractAgent[Any, Any]
    model: str | Model | None
    fallback: tuple[str | Model, ...]
    model_settings: ModelSettings | None
    limits: RunLimits
    prompt: Prompt | None
    toolsets: tuple[AbstractToolset[Any], ...]
    policies: Mapping[str, ToolPolicy]
    deps: Callable[[DepsRequest], Any] | None
    output_schema: dict[str, Any] | None
    has_system_prompt: bool

    @property
    def all_toolsets(self) -> tuple[AbstractToolset[Any], ...]:
        """The agent's own toolsets and those it was registered with."""
        return (*self.agent.toolsets, *self.toolsets)

    def function_tools(self) -> list[FoundTool]:
        """All its function tools, those too that were added to the agent after it was registered."""
        return find_tools(self.all_toolsets, decided_in_run=decides_about_calls(self.agent))

    @property
    def model_name(self) -> str | None:
        """The model as people know it, such as `openai:gpt-…`; None where the configured default is used."""
        if isinstance(self.model, Model):
            return f"{self.model.system}:{self.model.model_name}"
        return self.model


class AgentRegistry:
    """Agents by name, in the order they were added.

    Args:
        settings: limits of agents that set none.
        tools: also gets every `@tool` function the agents bring, to be called without a model.
        base: folder that relative prompt paths start from; by default the working directory.
    """

    def __init__(self, settings: RunSettings, *, tools: ToolRegistry | None = None, base: Path | None = None) -> None:
        self._settings = settings
        self._tools = ToolRegistry() if tools is None else tools
        self._base = base or Path()
        self._agents: dict[str, ServedAgent] = {}
        self._default: str | None = None

    def add(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        name: str | None = None,
        description: str | None = None,
        prompt: str | Path | Prompt | None = None,
        model: str | Model | None = None,
        fallback: Sequence[str | Model] = (),
        temperature: float | None = None,
        max_tokens: int | None = None,
        tools: Sequence[Callable[..., Any] | Tool[Any]] = (),
        toolsets: Sequence[AbstractToolset[Any]] = (),
        deps: Callable[[DepsRequest], Any] | None = None,
        default: bool = False,
        **limits: Any,
    ) -> ServedAgent:
        """Serve an agent. The agent itself is never changed.

        Args:
            agent: any Pydantic AI agent.
            name: by default the agent's own.
            description: by default the agent's own, else the prompt's.
            prompt: a prompt, or the path of its file.
            model: wins over the prompt's model and the agent's own.
            fallback: models to try, in order, when that one can't answer.
            temperature: wins over the prompt's.
            max_tokens: longest answer of one model call, tokens; wins over the prompt's.
            tools: functions, decorated with `@tool` or not, beside the agent's own.
            toolsets: Pydantic AI toolsets, beside the agent's own.
            deps: called (and awaited) for each run, for agents with a `deps_type`.
            default: serve callers that name no agent.
            limits: any field of `RunLimits`.

        Raises:
            StartupError: a name is missing or taken, a prompt or value is wrong, two tools share a name, the agent
                needs `deps`, or it answers with a `@tool` function.
        """
        named = self._free_name(name or agent.name)
        refuse_tools_as_output(agent, named)
        loaded = self._load(prompt)
        extra = (*((function_toolset(tools, id=f"{named}-tools"),) if tools else ()), *toolsets)
        decided = decides_about_calls(agent)
        found = _unique_by_name(find_tools([*agent.toolsets, *extra], decided_in_run=decided), named)
        served = ServedAgent(
            name=named,
            description=description or own_description(agent) or (loaded.description if loaded else ""),
            agent=agent,
            model=model or (loaded.model if loaded else None) or agent.model,
            fallback=tuple(fallback),
            model_settings=_settings(loaded, temperature, max_tokens),
            limits=_limits(self._settings, named, limits),
            prompt=loaded,
            toolsets=extra,
            policies=MappingProxyType({tool.name: tool.policy for tool in found}),
            deps=_checked_deps(agent, deps, named),
            output_schema=structured_output_schema(agent),
            has_system_prompt=has_system_prompt(agent),
        )
        self._register_tools(found)
        self._agents[named] = served
        if default:
            self._default = named
        return served

    def get(self, name: str) -> ServedAgent:
        """The agent of that name.

        Raises:
            NotFound: there is none; the sentence lists those there are.
        """
        if name not in self._agents:
            names = ", ".join(self._agents) or "none"
            raise NotFound(f"There is no agent {name[:64]!r}. Agents here: {names}.", code="agent_not_found")
        return self._agents[name]

    @property
    def default(self) -> ServedAgent | None:
        """The agent for callers that name none: the one added with `default=True`, else the only one there is."""
        if self._default is not None:
            return self._agents[self._default]
        return next(iter(self._agents.values())) if len(self._agents) == 1 else None

    @property
    def tools(self) -> ToolRegistry:
        """The `@tool` functions of all agents."""
        return self._tools

    def policy(self, served: ServedAgent, tool_name: str) -> ToolPolicy:
        """The policy of a tool; of one that is known only during a run (MCP and such), the default: effect `once`.

        A tool added to the agent after it was registered (`@agent.tool`) is found too.
        """
        known = served.policies.get(tool_name)
        if known is not None:
            return known
        later = (tool.policy for tool in find_tools(served.all_toolsets) if tool.name == tool_name)
        return next(later, None) or default_policy(tool_name)

    def __iter__(self) -> Iterator[ServedAgent]:
        return iter(self._agents.values())

    def __len__(self) -> int:
        return len(self._agents)

    def _free_name(self, name: str | None) -> str:
        if not name:
            raise StartupError("An agent needs a name: Agent(..., name='support') or app.agent(agent, name='support').")
        if len(name) > 64 or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise StartupError(f"The agent name {name!r} is not usable: at most 64 letters, digits, '.', '_' and '-'.")
        if name in self._agents:
            raise StartupError(f"Two agents are named {name}. Give one another name: app.agent(agent, name='...').")
        return name

    def _load(self, prompt: str | Path | Prompt | None) -> Prompt | None:
        if prompt is None or isinstance(prompt, Prompt):
            return prompt
        return load_prompt(self._base / prompt)

    def _register_tools(self, found: list[FoundTool]) -> None:
        for item in found:
            if policy_of(item.tool.function) is not None:
                self._tools.add(item.tool, policy=item.policy, needs_run=item.needs_run, asks=item.asks)


def _unique_by_name(found: list[FoundTool], agent: str) -> list[FoundTool]:
    seen: set[str] = set()
    for item in found:
        if item.name in seen:
            raise StartupError(
                f"Agent {agent} has two tools named {item.name}. "
                "Give a tool once, either to Agent(tools=...) or to app.agent(tools=...), or rename one."
            )
        seen.add(item.name)
    return found


def _settings(prompt: Prompt | None, temperature: float | None, max_tokens: int | None) -> ModelSettings | None:
    merged = dict(prompt.settings) if prompt else {}
    if temperature is not None:
        merged["temperature"] = temperature
    if max_tokens is not None:
        merged["max_tokens"] = max_tokens
    return cast("ModelSettings", merged) or None


def _limits(settings: RunSettings, agent: str, overrides: dict[str, Any]) -> RunLimits:
    try:
        return RunLimits.from_settings(settings, **overrides)
    except StartupError as error:
        raise StartupError(f"Agent {agent}: {error.message}") from None


def _checked_deps(
    agent: AbstractAgent[Any, Any], deps: Callable[[DepsRequest], Any] | None, name: str
) -> Callable[[DepsRequest], Any] | None:
    if deps is not None and not callable(deps):
        raise StartupError(f"Agent {name}: deps is a function of a DepsRequest, called for each run; got {deps!r}.")
    if deps is None and agent.deps_type not in {object, type(None), Any}:
        kind = getattr(agent.deps_type, "__name__", str(agent.deps_type))
        raise StartupError(
            f"Agent {name} has deps_type {kind}: say how to make one, app.agent(agent, deps=lambda request: ...)."
        )
    return deps
