"""A run that may be what ends processes executes with nothing beside it, so that no other can be blamed for its end.

Only what happens in such isolation is evidence (docs/decisions/0011): a process that ends while a tool of an isolated
run executes was ended by that run, or by somebody outside.
"""

import asyncio
from collections.abc import Callable


def _nothing() -> None:
    return


class Isolation:
    """The door of a process: while one run is isolated, the others wait before they begin.

    At most one run at a time. The door opens as soon as that run has recorded something, has ended, or has had its
    time; then `on_end` is called.
    """

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._opened = asyncio.Event()
        self._opened.set()
        self.on_end: Callable[[], None] = _nothing

    @property
    def run_id(self) -> str | None:
        """The isolated run."""
        return self._run_id

    def begin(self, run_id: str) -> None:
        """Let no other run begin."""
        self._run_id = run_id
        self._opened.clear()

    def end(self, run_id: str) -> None:
        """Let the others begin, if this run was the isolated one."""
        if self._run_id == run_id:
            self._run_id = None
            self._opened.set()
            self.on_end()

    async def passed(self, run_id: str) -> bool:
        """Until this run may begin. Returns whether it had to wait."""
        waited = False
        while self._run_id is not None and self._run_id != run_id:
            waited = True
            await self._opened.wait()
        return waited
