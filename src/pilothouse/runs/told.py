"""What a model is told beside the messages: its instructions and its tools, as hashes a replay can compare."""

import hashlib
from collections.abc import Iterator, Sequence

from pydantic_ai.messages import ModelRequest, SystemPromptPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition

from pilothouse.kit.jsons import dumps

INSTRUCTIONS = "instructions"
_HASH_BYTES = 6


def told_to_model(request: ModelRequestContext) -> dict[str, str]:
    """Short hashes of what a request says: `instructions`, and `tool <name>` for each tool's description and schema."""
    told = {INSTRUCTIONS: _hash(instructions_in(request))}
    for tool in tools_in(request):
        told[f"tool {tool.name}"] = _hash(description_of(tool))
    return told


def tools_in(request: ModelRequestContext) -> Sequence[ToolDefinition]:
    """The tools a request offers, those for the output included."""
    parameters = request.model_request_parameters
    return (*parameters.function_tools, *parameters.output_tools)


def description_of(tool: ToolDefinition) -> str:
    """What a model is told of a tool, as JSON."""
    return dumps([tool.description, tool.parameters_json_schema])


def instructions_in(request: ModelRequestContext) -> str:
    """The instructions of a request, system prompts of the old kind included."""
    return "\n".join(_instructions(request))


def _instructions(request: ModelRequestContext) -> Iterator[str]:
    first, last = request.messages[0], request.messages[-1]
    if isinstance(first, ModelRequest):
        yield from (part.content for part in first.parts if isinstance(part, SystemPromptPart))
    if isinstance(last, ModelRequest) and last.instructions:
        yield last.instructions


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
