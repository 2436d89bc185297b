"""What an agent says about itself."""

from typing import Any, cast

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_ai import DeferredToolRequests
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.exceptions import UserError


def own_description(agent: AbstractAgent[Any, Any]) -> str:
    """The agent's description, or nothing: one that is a template is known only during a run."""
    described = agent.description
    return described if isinstance(described, str) else ""


def structured_output_schema(agent: AbstractAgent[Any, Any]) -> dict[str, Any] | None:
    """JSON schema of what the agent answers with; None for text; `{}` where it can't be put into a schema."""
    output: Any = agent.output_type
    if output is str:
        return None
    if isinstance(output, list | tuple):
        kinds = [kind for kind in cast("list[Any]", output) if kind is not DeferredToolRequests]
        output = kinds if len(kinds) != 1 else kinds[0]
        if output in ([], str):
            return None
    try:
        schema = agent.output_json_schema(output)
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, UserError):
        return {}
    return None if schema == {"type": "string"} else schema


def has_system_prompt(agent: AbstractAgent[Any, Any]) -> bool:
    """Whether the agent was given `system_prompt=` or `@agent.system_prompt`.

    Pydantic AI tells only by evaluating them, which needs a run's dependencies, so its private lists are looked at.
    """
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    return bool(getattr(agent, "_system_prompts", ()) or getattr(agent, "_system_prompt_functions", ()))
