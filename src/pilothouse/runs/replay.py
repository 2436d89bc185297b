"""Run a recorded run again, offline, and find the first thing today's code does otherwise.

The model's answers and the tools' results are the recorded ones: no provider is asked and no tool is called.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.capabilities import AbstractCapability, ReinjectSystemPrompt
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    RetryFeedbackPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.tools import RunContext, ToolDefinition
from pydantic_ai.usage import UsageLimits
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection
from sqlalchemy.engine import Row

from pilothouse.agents.registry import AgentRegistry, DepsRequest, ServedAgent
from pilothouse.conversations import repository as conversation_rows
from pilothouse.conversations.present import response_text
from pilothouse.conversations.transcript import StoredMessage, assemble, decode
from pilothouse.db import Database
from pilothouse.errors import NotFound
from pilothouse.kit.jsons import dumps, loads
from pilothouse.runs import repository
from pilothouse.runs.prepare import instructions_of
from pilothouse.runs.steps import recorded_value
from pilothouse.runs.told import INSTRUCTIONS, description_of, instructions_in, told_to_model, tools_in

Handler = Callable[[Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that is otherwise.

    Attributes:
        step: the model step it comes before or in; 0 before all of them.
        what: in words.
        recorded: what was; None where there was nothing.
        now: what is; None where there is nothing any more.
    """

    step: int
    what: str
    recorded: str | None
    now: str | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far the recording went, and where it was left."""

    run_id: str
    agent: str
    responses: int
    difference: Difference | None


class _Differs(BaseException):  # not an Exception: nothing on the way may take it for a tool's error
    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class _RecordingEnds(BaseException):
    """There is nothing more to compare with."""


@dataclass
class _Recording:
    row: Row[Any]
    history: list[StoredMessage]
    own: list[StoredMessage]
    tools_known: set[tuple[int, str]]
    told: dict[int, dict[str, str]]
    responses: list[tuple[int, ModelResponse]] = field(default_factory=list[tuple[int, ModelResponse]])
    given: int = 0

    def request_before(self, number: int) -> ModelMessage:
        """What the transcript says was sent last before the response of that position."""
        positions = [index for index, row in enumerate(self.own) if row.role == "assistant"]
        return assemble(self.own[: positions[number]])[-1]

    def result_of(self, call_id: str) -> StoredMessage | None:
        """The recorded result of a call of the response given last."""
        step = self.responses[self.given - 1][0]
        rows = (row for row in self.own if row.role == "tool" and row.step == step and row.call_id == call_id)
        return next(rows, None)


class _Replay(AbstractCapability[Any]):
    def __init__(self, recording: _Recording, *, ignore: Collection[str]) -> None:
        self._recording = recording
        self._ignore = ignore

    async def wrap_model_request(
        self,
        ctx: RunContext[Any],  # noqa: ARG002 - the hook's signature
        *,
        request_context: ModelRequestContext,
        handler: Handler,  # noqa: ARG002
    ) -> ModelResponse:
        recording = self._recording
        number = recording.given
        step = recording.responses[number][0] if number < len(recording.responses) else recording.row.steps + 1
        if number == len(recording.responses):
            if recording.row.state != "completed":
                raise _RecordingEnds
            raise _Differs(Difference(step, "the model is asked again where the run had ended", None, "a request"))
        _compare(step, recording.request_before(number), request_context.messages[-1])
        if (told := recording.told.get(step)) is not None:
            _compare_told(step, told, request_context, self._ignore)
        recording.given += 1
        response = recording.responses[number][1]
        offered = {tool.name for tool in tools_in(request_context)}
        for call in response.tool_calls:
            known_then = (step, call.tool_call_id) in recording.tools_known
            if call.tool_name not in offered and known_then:
                names = ", ".join(sorted(offered)) or "none"
                raise _Differs(
                    Difference(step, f"the tool {call.tool_name} is not offered any more", call.tool_name, names)
                )
        return response

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],  # noqa: ARG002
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,  # noqa: ARG002
        args: dict[str, Any],  # noqa: ARG002
        handler: Handler,  # noqa: ARG002
    ) -> Any:
        row = self._recording.result_of(call.tool_call_id)
        if row is None:
            raise _RecordingEnds
        return recorded_value(row)


async def replay(database: Database, agents: AgentRegistry, run_id: str, *, ignore: Collection[str] = ()) -> Replayed:
    """Run it again against its recording.

    Args:
        database: where it is recorded.
        agents: as the code now defines them.
        run_id: which run.
        ignore: `instructions`, where they are never the same twice (they hold the time), or `tools`.

    Raises:
        NotFound: there is no such run, or its agent is not served any more.
    """
    recording = await database.read(_load, run_id, agents)
    if recording is None:
        raise NotFound(f"There is no run {run_id[:64]!r} in this database.", code="run_not_found")
    agent = agents.get(recording.row.agent)
    difference = _prompt_difference(recording.row, agent)
    if difference is None:
        try:
            difference = await _run(recording, agent, ignore)
        except _Differs as found:
            difference = found.difference
        except _RecordingEnds:
            difference = None
    return Replayed(run_id, agent.name, recording.given, difference)


async def _run(recording: _Recording, agent: ServedAgent, ignore: Collection[str]) -> Difference | None:
    context: dict[str, Any] = recording.row.request.get("context") or {}
    capabilities: list[AbstractCapability[Any]] = [_Replay(recording, ignore=ignore)]
    if agent.has_system_prompt:
        capabilities.append(ReinjectSystemPrompt[Any]())
    retries = agent.limits.argument_retries
    first = next(index for index, row in enumerate(recording.own) if row.role == "user")
    try:
        result = await agent.agent.run(
            None,
            message_history=assemble([*recording.history, *recording.own[: first + 1]]),
            model=FunctionModel(_no_model, model_name="recorded"),
            deps=await _deps(recording.row, agent, context),
            instructions=instructions_of(agent, context),
            usage_limits=UsageLimits(request_limit=None),
            retries={"tools": retries, "output": retries},
            toolsets=agent.toolsets or None,
            capabilities=capabilities,
        )
    except UnexpectedModelBehavior as error:
        if recording.row.state != "completed":
            return None
        step = recording.responses[recording.given - 1][0] if recording.given else 0
        return Difference(step, "the run fails where it had gone on", None, str(error))
    return _end_difference(recording, agent, result.output)


def _end_difference(recording: _Recording, agent: ServedAgent, output: Any) -> Difference | None:
    if recording.given < len(recording.responses):
        step = recording.responses[recording.given][0]
        return Difference(step, "the run ends where it had gone on", response_text(recording.responses[-1][1]), None)
    if recording.row.state != "completed":
        return None
    stored: dict[str, Any] = loads(recording.row.output or "{}")
    structured = agent.output_schema is not None
    now = to_jsonable_python(output, fallback=str, inf_nan_mode="null")
    before = stored.get("output") if structured else stored.get("text")
    if now == before:
        return None
    step = recording.responses[-1][0] if recording.responses else 0
    return Difference(step, "the answer is another one", dumps(before), dumps(now))


def _prompt_difference(row: Row[Any], agent: ServedAgent) -> Difference | None:
    prompt = agent.prompt
    if row.prompt_hash == (prompt.hash if prompt else None):
        return None
    recorded = f"{row.prompt_name} {row.prompt_version or ''} ({row.prompt_hash})" if row.prompt_hash else None
    now = f"{prompt.name} {prompt.version or ''} ({prompt.hash})" if prompt else None
    return Difference(0, "the prompt is another one", recorded, now)


def _compare(step: int, recorded: ModelMessage, now: ModelMessage) -> None:
    """What is sent to the model beside what was: the parts that people, tools and the loop itself made."""
    before, after = _shown(recorded), _shown(now)
    if before != after:
        pairs = [(a, b) for a, b in zip([*before, None], [*after, None], strict=False) if a != b]
        first = pairs[0] if pairs else (None, None)
        raise _Differs(Difference(step, "what is sent to the model is otherwise", *first))


def _compare_told(step: int, told: dict[str, str], request: ModelRequestContext, ignore: Collection[str]) -> None:
    """The instructions and tools of a request beside those of then, of which only hashes are kept."""
    now = told_to_model(request)
    for name in told | now:
        before, after = told.get(name), now.get(name)
        kind = INSTRUCTIONS if name == INSTRUCTIONS else "tools"
        if before == after or kind in ignore:
            continue
        if name == INSTRUCTIONS:
            text = instructions_in(request)
            raise _Differs(Difference(step, "the instructions are others", f"those of hash {before}", text))
        if after is None:
            raise _Differs(Difference(step, f"the {name} is not offered any more", name, None))
        if before is None:
            raise _Differs(Difference(step, f"the {name} is offered, which it was not", None, name))
        tool = next(found for found in tools_in(request) if f"tool {found.name}" == name)
        shown = description_of(tool)
        raise _Differs(Difference(step, f"the {name} is described otherwise", f"that of hash {before}", shown))


def _shown(message: ModelMessage) -> Sequence[str]:
    shown: list[str] = []
    for part in message.parts:
        if isinstance(part, ToolReturnPart):
            shown.append(f"result of {part.tool_name}: {part.model_response_str()}")
        elif isinstance(part, RetryFeedbackPart):
            shown.append(f"feedback: {part.model_response()}")
        elif part.part_kind == "user-prompt":
            shown.append(f"user: {part.content}")
    return shown


def _load(connection: Connection, run_id: str, agents: AgentRegistry) -> _Recording | None:
    row = repository.get_run_for_executor(connection, run_id)
    if row is None:
        return None
    most = agents.get(row.agent).limits.history_messages
    history, _ = conversation_rows.load_history(connection, row.conversation_id, before_turn=row.turn, most=most)
    own = conversation_rows.load_turn(connection, row.conversation_id, row.turn)
    steps = repository.load_steps(connection, run_id)
    known = {
        (step.model_step, step.call_id) for step in steps if step.kind == "tool" and step.error_code != "unknown_tool"
    }
    recording = _Recording(row, history, own, known, _told(steps))
    for stored, message in zip(own, decode(own), strict=True):
        if isinstance(message, ModelResponse):
            recording.responses.append((stored.step, message))
    return recording


def _told(steps: Sequence[Row[Any]]) -> dict[int, dict[str, str]]:
    """What the model was told in each step; a step without an entry was told what the one before was."""
    told: dict[int, dict[str, str]] = {}
    latest: dict[str, str] | None = None
    for step in steps:
        if step.kind != "model":
            continue
        latest = loads(step.told) if step.told else latest
        if latest is not None:
            told[step.number] = latest
    return told


async def _deps(row: Row[Any], agent: ServedAgent, context: dict[str, Any]) -> Any:
    if agent.deps is None:
        return None
    made = agent.deps(
        DepsRequest(
            agent=agent.name,
            run_id=row.id,
            conversation_id=row.conversation_id,
            tenant=row.tenant,
            subject=row.owner,
            scopes=frozenset(row.request["scopes"]),
            context=context,
        )
    )
    return await made if inspect.isawaitable(made) else made


def _no_model(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    raise NotImplementedError
