"""What waits for a person and what a person answers, on the wire."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pilothouse.runs.states import RunState

_RUN = "run_01kb2m9w4c8t5v3q7r1x6y0z2a"
_HASH = "7d1a54127b222502f5b79b5fb0803061152a44f92b37e23c6527baf665d4da9a"
_HASH_FIELD = (
    "A hash of the arguments, and of the question if it is asked again: send it back with the answer, to decide about "
    "this call and no other."
)


class WaitingCall(BaseModel):
    """A tool call that waits for a person."""

    step: int = Field(examples=[2])
    call_id: str = Field(examples=["call_7k2m"])
    name: str = Field(examples=["refund"])
    arguments: Any = Field(examples=[{"order_id": "1042", "cents": 1900}])
    arguments_hash: str = Field(description=_HASH_FIELD, examples=[_HASH])
    effect: str | None = Field(examples=["once"])
    reason: Literal["approval", "in_doubt"] = Field(
        description="`in_doubt`: it was started before an interruption, and may have taken effect."
    )
    scopes: list[str] = Field(description="Who decides needs them all.", examples=[["orders:write"]])
    four_eyes: bool = Field(description="Another subject than the run's has to decide.")


class WaitingCalls(BaseModel):
    """What of a run waits for a person, as far as you may decide it."""

    run_id: str = Field(examples=[_RUN])
    agent: str = Field(examples=["support"])
    requested_by: str = Field(description="The subject who started the run.", examples=["ada"])
    items: list[WaitingCall]


class InputIn(BaseModel):
    """A person's answer to a call that waits."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"call_id": "call_7k2m", "approve": True, "step": 2, "arguments_hash": _HASH}]},
    )

    call_id: str = Field(min_length=1, max_length=128)
    approve: bool
    step: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="The call's step, as you saw it. Required where a person was asked about several calls of one id.",
    )
    arguments_hash: str | None = Field(default=None, min_length=1, max_length=64, description=_HASH_FIELD)


class DecisionOut(BaseModel):
    """What is told of somebody else's run to the person who decided about a call of it."""

    run_id: str = Field(examples=[_RUN])
    state: RunState
    call_id: str = Field(examples=["call_7k2m"])
    approve: bool
