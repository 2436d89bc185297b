"""What an agent is given for a run besides its history: instructions and dependencies."""

import inspect
from typing import Any

from pydantic_ai.models import Model

from pilothouse.agents.callers_data import NOTICE, marked_json
from pilothouse.agents.registry import DepsRequest, ServedAgent
from pilothouse.runs.active import ActiveRun


def instructions_of(agent: ServedAgent, context: dict[str, Any]) -> str | None:
    """The agent's prompt with its variables; what the prompt doesn't use of the context is given as JSON. Both are
    marked as the caller's.

    Raises:
        InvalidRequest: the context lacks a variable that the prompt requires.
    """
    used: set[str] = set(agent.prompt.variables) if agent.prompt else set()
    rest = {name: value for name, value in context.items() if name not in used}
    parts = [agent.prompt.render(context)] if agent.prompt else []
    if rest and agent.deps is None:
        parts.append(f"Context that came with the message, as JSON: {marked_json(rest)}")
        if NOTICE not in parts[0]:
            parts.append(NOTICE)
    return "\n\n".join(parts) or None


def model_of(
    agent: ServedAgent, default: str | None, asked: str | None = None
) -> tuple[str | Model, tuple[str | Model, ...]]:
    """The model of a run and what to fall back to.

    Args:
        default: the server's model, for agents without one.
        asked: the model its caller named, which has no fallback: people compare models that way.
    """
    if asked is None:
        return agent.model or default or "", agent.fallback
    return next((model for model in _served_models(agent) if _name_of(model) == asked), asked), ()


def served_models(agent: ServedAgent, default: str | None) -> list[str]:
    """The models an agent is served with, as `provider:name`: its own or the server's default, and its fallbacks."""
    names = [_name_of(model) for model in _served_models(agent)]
    return [default, *names] if agent.model is None and default is not None else names


def _served_models(agent: ServedAgent) -> list[str | Model]:
    return [model for model in (agent.model, *agent.fallback) if model is not None]


def _name_of(model: str | Model) -> str:
    return model if isinstance(model, str) else f"{model.system}:{model.model_name}"


async def deps_of(run: ActiveRun) -> Any:
    """What the agent's tools depend on, made for this run; None where it needs nothing."""
    if run.agent.deps is None:
        return None
    made = run.agent.deps(
        DepsRequest(
            agent=run.agent.name,
            run_id=run.run_id,
            conversation_id=run.conversation_id,
            tenant=run.principal.tenant,
            subject=run.principal.subject,
            scopes=run.principal.scopes,
            context=run.context,
        )
    )
    return await made if inspect.isawaitable(made) else made
