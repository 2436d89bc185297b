"""What an agent is given for a run besides its history: instructions and dependencies."""

import inspect
from typing import Any

from pydantic_ai.models import Model

from pilothouse.agents.registry import DepsRequest, ServedAgent
from pilothouse.kit.jsons import dumps
from pilothouse.runs.active import ActiveRun


def instructions_of(agent: ServedAgent, context: dict[str, Any]) -> str | None:
    """The agent's prompt with its variables; what the prompt doesn't use of the context is given as it is.

    Raises:
        InvalidRequest: the context lacks a variable that the prompt requires.
    """
    used: set[str] = set(agent.prompt.variables) if agent.prompt else set()
    rest = {name: value for name, value in context.items() if name not in used}
    parts = [agent.prompt.render(context)] if agent.prompt else []
    if rest and agent.deps is None:
        parts.append(f"Context given by the application, as JSON:\n{dumps(rest)}")
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


def serves_model(agent: ServedAgent, name: str) -> bool:
    """Whether an agent is served with a model of this name, `provider:name`."""
    return any(_name_of(model) == name for model in _served_models(agent))


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
