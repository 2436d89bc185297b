"""Call a tool directly, without a model."""

import time
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from pydantic import ValidationError
from pydantic_ai import Agent, RunContext, ToolReturn
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred

from pilothouse.errors import Conflict, InvalidRequest, PilothouseError
from pilothouse.identity.principal import Principal
from pilothouse.kit.ids import new_id
from pilothouse.kit.jsons import dumps, loads
from pilothouse.settings import RunSettings
from pilothouse.tools.calling import ToolFailure, call_tool
from pilothouse.tools.context import ToolCall, hashed_key
from pilothouse.tools.registry import RegisteredTool, ToolRegistry
from pilothouse.tools.results import error_in, shorten
from pilothouse.tools.trim import trim

_MOST_ERRORS = 20


@dataclass(frozen=True, kw_only=True)
class ToolCallOutcome:
    """What a direct call gave back.

    Attributes:
        status: `error` where the tool itself answered with a structured error.
        result: a JSON value, cut where it was too long.
        duration_ms: how long the tool took, milliseconds.
    """

    status: Literal["ok", "error"]
    result: Any
    duration_ms: int


class ToolService:
    """Direct calls of the registered tools.

    Args:
        registry: the tools.
        settings: timeout and longest result of tools that set none.
        threads: where tools that are no coroutines run. One that times out is left behind there: Python can't stop a
            thread.
    """

    def __init__(self, registry: ToolRegistry, settings: RunSettings, *, threads: Executor) -> None:
        self._registry = registry
        self._settings = settings
        self._threads = threads

    @property
    def tools(self) -> ToolRegistry:
        """The registered tools."""
        return self._registry

    def allowed(self, principal: Principal, name: str) -> RegisteredTool:
        """The tool, if the caller may call it and it can be called without a run.

        Raises:
            Forbidden: `missing_scope`.
            NotFound: `tool_not_found`.
            Conflict: `approval_required`: a person must approve each call, so it only works inside a run.
            InvalidRequest: `needs_run`.
        """
        principal.require("tools:call")
        tool = self._registry.get(name)
        for scope in tool.policy.scopes:
            principal.require(scope)
        if tool.policy.approval:
            raise _approval_required(name)
        if tool.needs_run:
            raise _needs_run(name)
        return tool

    async def call(
        self, principal: Principal, name: str, arguments: dict[str, Any], *, idempotency_key: str | None = None
    ) -> ToolCallOutcome:
        """Run a tool for a caller.

        Args:
            principal: who calls.
            name: which tool.
            arguments: as its schema says.
            idempotency_key: the caller's. The tool is given one made of it (`current_tool_call()`) that no other caller
                and no other tool shares; by default a new one.

        Raises:
            Forbidden: `missing_scope`.
            NotFound: `tool_not_found`.
            Conflict: `approval_required`: a person must approve each call, so it only works inside a run.
            InvalidRequest: `needs_run`, or `invalid_arguments` naming the field.
            PilothouseError: 504 `tool_timeout`, or 502 `tool_failed` with the structured `error`.
        """
        tool = self.allowed(principal, name)
        checked = _validate(tool, arguments)
        call_id = new_id("call")
        call = ToolCall(
            run_id=None,
            conversation_id=None,
            tenant=principal.tenant,
            subject=principal.subject,
            call_id=call_id,
            idempotency_key=call_id if idempotency_key is None else _key_for(principal, name, idempotency_key),
        )
        started = time.monotonic()
        result = await self._execute(tool, call, checked)
        return ToolCallOutcome(
            status="error" if error_in(result) else "ok",
            result=result,
            duration_ms=round((time.monotonic() - started) * 1000),
        )

    async def _execute(self, tool: RegisteredTool, call: ToolCall, arguments: dict[str, Any]) -> Any:
        name = tool.policy.name
        seconds = tool.policy.timeout_seconds or self._settings.tool_timeout_seconds
        function = partial(self._result, tool, arguments)
        try:
            result = await call_tool(call, function, tool=name, seconds=seconds, passes=_wants_a_run)
        except ApprovalRequired:
            raise _approval_required(name) from None
        except CallDeferred:
            raise _needs_run(name) from None
        if isinstance(result, ToolFailure):
            raise _failed(tool, result, seconds) from result.raised
        return result

    async def _result(self, tool: RegisteredTool, arguments: dict[str, Any]) -> Any:
        nowhere = cast("RunContext[Any]", None)  # tools that want one were refused
        with Agent.using_thread_executor(self._threads):
            result = await tool.tool.function_schema.call(arguments, nowhere)
        whole = cast("Any", result.return_value) if isinstance(result, ToolReturn) else result
        most = tool.policy.max_output_chars or self._settings.tool_output_chars
        trimmed = trim(whole, most)
        return shorten(loads(dumps(trimmed.value)), most, trimmed)[0]


def _wants_a_run(error: BaseException) -> bool:
    return isinstance(error, ApprovalRequired | CallDeferred)


def _failed(tool: RegisteredTool, failure: ToolFailure, seconds: float) -> PilothouseError:
    name, may_repeat = tool.policy.name, tool.policy.effect != "once"
    if failure.timed_out:
        return PilothouseError(
            f"Tool {name} did not finish within {seconds:g} s. It may still have taken effect.",
            code="tool_timeout",
            status=504,
            retryable=may_repeat,
        )
    shown = failure.shown["error"]
    return PilothouseError(
        f"Tool {name} failed. {shown['message']}",
        code="tool_failed",
        status=502,
        retryable=shown["retryable"] and may_repeat,
        error=shown,
    )


def _approval_required(name: str) -> Conflict:
    return Conflict(
        f"Each call of {name} needs a person's approval, so it only works inside a run.", code="approval_required"
    )


def _needs_run(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} works with the run it is called in, so it can't be called directly. Ask an agent that has it.",
        code="needs_run",
    )


def _key_for(principal: Principal, tool: str, key: str) -> str:
    return hashed_key(repr(("direct", principal.tenant, principal.subject, tool, key)))


def _validate(tool: RegisteredTool, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        text = dumps(arguments)
    except ValueError:  # half of a surrogate pair
        raise InvalidRequest(
            "arguments is wrong: it holds text that is not Unicode. Send whole characters.", code="invalid_arguments"
        ) from None
    try:
        return tool.tool.function_schema.validator.validate_json(text)
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=False, include_context=False)
        errors = [{"field": _field(item["loc"]), "message": item["msg"]} for item in items[:_MOST_ERRORS]]
        first = errors[0]
        raise InvalidRequest(
            f"{first['field']} is wrong: {first['message'][:200]}. See GET /v1/tools for the arguments.",
            code="invalid_arguments",
            errors=errors,
        ) from None


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(["arguments", *(str(part)[:80] for part in location)])
