"""Call a tool within its time, in a run or directly, and say of whatever it raises what can be shown.

A tool is somebody's code: what it raises is the tool's failure, `sys.exit()` and a group of exceptions too. What ends
more than the call leaves as it is: a stop that somebody asked for, `KeyboardInterrupt`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pilothouse.observability.logs import get_logger
from pilothouse.tools.context import ToolCall, serving
from pilothouse.tools.results import classify_exception, tool_error

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ToolFailure:
    """A call that gave no result.

    Attributes:
        shown: the `tool_error`.
        raised: what the tool raised.
        timed_out: it was stopped because its time was over. A timeout of the tool's own is not meant.
    """

    shown: dict[str, Any]
    raised: BaseException
    timed_out: bool = False


def _none(_error: BaseException) -> bool:
    return False


async def call_tool(
    call: ToolCall,
    function: Callable[[], Awaitable[Any]],
    *,
    tool: str,
    seconds: float,
    passes: Callable[[BaseException], bool] = _none,
) -> Any:
    """The result of a tool, or a `ToolFailure`.

    Args:
        call: what `current_tool_call()` is meanwhile.
        function: calls the tool.
        tool: its name, for the log.
        seconds: it is cancelled after so many.
        passes: which exceptions are no failure, but meant for the caller: they are raised.

    Raises:
        CancelledError: somebody stopped this call. A `CancelledError` of the tool's own is its failure.
    """
    limit = asyncio.timeout(seconds)
    try:
        with serving(call):
            async with limit:
                return await function()
    except (Exception, SystemExit, asyncio.CancelledError, BaseExceptionGroup) as error:
        if _is_stopped(error) or passes(error):
            raise
        if limit.expired() and isinstance(error, TimeoutError):
            shown = tool_error("timeout", f"The tool took longer than {seconds:g} seconds and was stopped.")
            return ToolFailure(shown=shown, raised=error, timed_out=True)
        log.warning("tool_failed", tool=tool, call_id=call.call_id, exc_info=error)
        return ToolFailure(shown=classify_exception(error), raised=error)


def _is_stopped(error: BaseException) -> bool:
    """Whether somebody stopped the call, and the exception is what came of it."""
    if isinstance(error, Exception | SystemExit):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
