"""What an agent is given for a run besides its history: instructions and dependencies."""

import inspect
from typing import Any

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
