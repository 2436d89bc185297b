"""The agent under test: tools of every effect, each with a line in the ledger before and after it acts."""

import asyncio
import os
import zlib
from collections.abc import Callable
from time import monotonic
from typing import Any

from pilothouse.testing.chaos.ledger import Ledger
from pilothouse.tools.context import current_tool_call
from pilothouse.tools.decorator import tool
from pilothouse.tools.policy import Effect, InDoubt

TOOLS: dict[str, tuple[Effect, InDoubt]] = {
    "look": ("pure", "ask"),
    "put": ("idempotent", "ask"),
    "pay_tell": ("once", "tell_model"),
    "pay_ask": ("once", "ask"),
    "pay_retry": ("once", "retry"),
}


class ChaosTools:
    """Tools that take a while and change nothing but their ledger.

    Args:
        process: the name of the process they run in.
        clock: what to add to the monotonic clock to get Unix seconds: the process's own clock may be a lie.
    """

    def __init__(self, ledger: Ledger, *, process: str, clock: float) -> None:
        self._ledger = ledger
        self._process = process
        self._clock = clock

    def all(self) -> list[Callable[..., Any]]:
        """The tools, to be given to an agent."""
        return [self._make(name, effect, in_doubt) for name, (effect, in_doubt) in TOOLS.items()]

    def _make(self, name: str, effect: Effect, in_doubt: InDoubt) -> Callable[..., Any]:
        @tool(name=name, effect=effect, in_doubt=in_doubt)
        async def act(key: str) -> dict[str, str]:
            """Do it."""
            return await self._act(name, key)

        return act

    async def _act(self, name: str, key: str) -> dict[str, str]:
        call = current_tool_call()
        if call is None:
            raise RuntimeError("called outside a run")
        common = {
            "tool": name,
            "key": key,
            "run_id": call.run_id,
            "call_id": call.call_id,
            "idempotency_key": call.idempotency_key,
            "process": self._process,
            "pid": os.getpid(),
        }
        self._ledger.write(phase="start", at=self._clock + monotonic(), **common)
        try:
            await asyncio.sleep(0.05 + zlib.crc32(call.call_id.encode()) % 700 / 1000)
        except asyncio.CancelledError:
            self._ledger.write(phase="stopped", at=self._clock + monotonic(), **common)
            raise
        self._ledger.write(phase="end", at=self._clock + monotonic(), **common)
        return {"done": name, "for": key}
