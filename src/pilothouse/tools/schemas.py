"""What the tools' routes take and give."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pilothouse.tools.policy import Effect
from pilothouse.tools.registry import RegisteredTool

_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"order_id": {"type": "string"}},
    "required": ["order_id"],
    "additionalProperties": False,
}


class ToolTerms(BaseModel):
    """A tool and what is asked of its callers."""

    name: str = Field(examples=["order_lookup"])
    description: str = Field(examples=["Look up one order."])
    parameters: dict[str, Any] = Field(description="JSON schema of the arguments.", examples=[_PARAMETERS])
    effect: Effect = Field(
        description="`pure` and `idempotent` may run again; `once` never runs twice on a guess.", examples=["pure"]
    )
    approval: bool = Field(description="Whether a person must say yes to each call.", examples=[False])
    approval_by_call: bool = Field(
        description="Whether something before the tool (a toolset, a validator, an agent's capability) may ask a "
        "person about some calls; about which is not known before. The tool's own code may ask as well.",
        examples=[False],
    )
    four_eyes: bool = Field(
        description="Whether that person must be another one than who started the run.", examples=[False]
    )


class ToolView(ToolTerms):
    """A tool and how it may be called."""

    scopes: list[str] = Field(description="Scopes the caller needs, all of them.", examples=[["orders:read"]])
    timeout_seconds: float | None = Field(description="Limit of one call; null: the agent's.", examples=[20.0])
    needs_run: bool = Field(
        description="It, or something that decides about its calls, works with the run it is called in: it can't be "
        "called here, only by an agent.",
        examples=[False],
    )

    @classmethod
    def of(cls, tool: RegisteredTool) -> "ToolView":
        """The view of a registered tool."""
        return cls(
            name=tool.policy.name,
            description=tool.policy.description,
            parameters=tool.parameters,
            effect=tool.policy.effect,
            approval=tool.asks == "always",
            approval_by_call=tool.asks == "by_call",
            four_eyes=tool.policy.four_eyes,
            scopes=list(tool.policy.scopes),
            timeout_seconds=tool.policy.timeout_seconds,
            needs_run=tool.needs_run,
        )


class ToolPage(BaseModel):
    """All registered tools; one page holds them all."""

    items: list[ToolView]
    next_cursor: str | None = None


class ToolCallRequest(BaseModel):
    """The arguments of a direct call."""

    model_config = ConfigDict(extra="forbid")

    arguments: dict[str, Any] = Field(
        default_factory=dict, description="As the tool's `parameters` say.", examples=[{"order_id": "1042"}]
    )


class ToolCallAnswer(BaseModel):
    """What the tool gave back."""

    status: Literal["ok", "error"] = Field(
        description="`error`: the tool ran and answered with a structured error of its own, in `result`."
    )
    result: Any = Field(description="The tool's result as JSON; cut, with a note, where it is too long.")
    duration_ms: int = Field(description="Milliseconds the tool took.", examples=[12])
