"""What the agents' routes give."""

from typing import Any

from pydantic import BaseModel, Field

from pilothouse.agents.prompts import Prompt
from pilothouse.agents.registry import ServedAgent
from pilothouse.tools.schemas import ToolTerms
from pilothouse.tools.toolsets import FoundTool, opaque_labels


class AgentSummary(BaseModel):
    """An agent one can chat with."""

    name: str = Field(description="What to send as `agent`.", examples=["support"])
    description: str = Field(examples=["Answers questions about orders and refunds them."])
    model: str | None = Field(
        description="Its model; null: the server's configured default.", examples=["openai:gpt-6-luna"]
    )
    default: bool = Field(description="Whether it serves callers that name no agent.", examples=[True])

    @classmethod
    def of(cls, served: ServedAgent, default: ServedAgent | None) -> "AgentSummary":
        """The summary of a served agent; `default` is the registry's."""
        return cls(
            name=served.name,
            description=served.description,
            model=served.model_name,
            default=default is not None and default.name == served.name,
        )


class AgentPage(BaseModel):
    """All agents; one page holds them all."""

    items: list[AgentSummary]
    next_cursor: str | None = None


class AgentTool(ToolTerms):
    """A tool as the agent's model sees it."""

    @classmethod
    def of(cls, found: FoundTool) -> "AgentTool":
        """The view of a function tool."""
        return cls(
            name=found.name,
            description=found.policy.description,
            parameters=found.tool.function_schema.json_schema,
            effect=found.policy.effect,
            approval=found.asks == "always",
            approval_by_call=found.asks == "by_call",
            four_eyes=found.policy.four_eyes,
        )


class PromptView(BaseModel):
    """Which prompt an agent is sent."""

    name: str = Field(examples=["support"])
    version: str = Field(examples=["3"])
    hash: str = Field(description="First 16 digits of the file's SHA-256.", examples=["9f86d081884c7d65"])
    description: str = Field(examples=["Friendly and brief."])
    variables: dict[str, str | None] = Field(
        description="What `context` may fill in, with defaults; null: required.", examples=[{"plan": "free"}]
    )

    @classmethod
    def of(cls, prompt: Prompt) -> "PromptView":
        """The view of a prompt. Its text stays on the server."""
        return cls(
            name=prompt.name,
            version=prompt.version,
            hash=prompt.short_hash,
            description=prompt.description,
            variables=dict(prompt.variables),
        )


class AgentView(AgentSummary):
    """An agent with all that is known of it."""

    fallback: list[str] = Field(description="Models tried when the first can't answer.", examples=[[]])
    tools: list[AgentTool]
    toolsets: list[str] = Field(
        description="Labels of toolsets whose tools are known only during a run, such as MCP servers.", examples=[[]]
    )
    limits: dict[str, float | int | None] = Field(
        description="Limits of its runs.", examples=[{"timeout_seconds": 600, "max_iterations": 20}]
    )
    prompt: PromptView | None
    output_schema: dict[str, Any] | None = Field(
        description="JSON schema of its structured answer; null: it answers in text."
    )

    @classmethod
    def of(cls, served: ServedAgent, default: ServedAgent | None) -> "AgentView":
        """The whole view of a served agent; `default` is the registry's."""
        toolsets = served.all_toolsets
        return cls(
            **AgentSummary.of(served, default).model_dump(),
            fallback=[model if isinstance(model, str) else model.model_name for model in served.fallback],
            tools=[AgentTool.of(found) for found in served.function_tools()],
            toolsets=opaque_labels(toolsets),
            limits=served.limits.as_dict(),
            prompt=PromptView.of(served.prompt) if served.prompt else None,
            output_schema=served.output_schema,
        )
