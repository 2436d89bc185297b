"""What an agent says about itself."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_ai import DeferredToolRequests, NativeOutput, PromptedOutput, TextOutput, ToolOutput
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.exceptions import UserError

from pilothouse.errors import StartupError
from pilothouse.tools.decorator import policy_of


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


def refuse_tools_as_output(agent: AbstractAgent[Any, Any], name: str) -> None:
    """Refuse an agent that answers with a tool: an output function is no tool call, so nothing would hold its policy.

    Raises:
        StartupError: an output function is decorated with `@tool`.
    """
    for function in _output_functions(agent.output_type):
        policy = policy_of(function)
        if policy is not None:
            raise StartupError(
                f"Agent {name} answers with {policy.name}, a @tool function. As an output function it would run "
                "without its scopes, approval, effect and timeout. Give it to the agent as a tool, with tools=[...], "
                "or make the output function one without @tool."
            )


def _output_functions(output: object) -> Iterator[object]:
    """The functions in an output type, and whatever else is there."""
    if isinstance(output, Sequence) and not isinstance(output, str):
        for item in cast("Sequence[object]", output):
            yield from _output_functions(item)
    elif isinstance(output, ToolOutput):
        yield from _output_functions(cast("ToolOutput[Any]", output).output)
    elif isinstance(output, NativeOutput | PromptedOutput):
        yield from _output_functions(cast("NativeOutput[Any] | PromptedOutput[Any]", output).outputs)
    elif isinstance(output, TextOutput):
        yield from _output_functions(cast("TextOutput[Any]", output).output_function)
    elif isinstance(output, partial):
        yield from _output_functions(cast("partial[Any]", output).func)
    else:
        yield output


def has_system_prompt(agent: AbstractAgent[Any, Any]) -> bool:
    """Whether the agent was given `system_prompt=` or `@agent.system_prompt`.

    Pydantic AI tells only by evaluating them, which needs a run's dependencies, so its private lists are looked at.
    """
    while isinstance(agent, WrapperAgent):
        agent = agent.wrapped
    return bool(getattr(agent, "_system_prompts", ()) or getattr(agent, "_system_prompt_functions", ()))
