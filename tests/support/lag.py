"""How long an event loop is held by one piece of work: the longest callback, in CPU time of its thread, and its stack.

CPU time, because the machines that run tests are busy: a callback that had to wait for a core was not to blame. A
second thread looks at long callbacks while they run and keeps their stack, so a report names the line and not only the
task.

async with elsewhere() as other:           # a loop in a thread of its own, for clients and the provider
    with LoopProbe() as probe:             # of the loop that runs in this thread
        await other.run(person.chat("Hi"))
    assert probe.longest < 0.25, probe.report()
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
_SUSPICIOUS_SECONDS = 0.01
_LOOK_SECONDS = 0.002
_FRAMES = 12


class LoopProbe:
    """Measures every callback of the loop that runs in this thread, until the end of the block."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.stack = ""
        self.callback = ""
        self._thread = threading.get_ident()
        self._begun: float | None = None
        self._number = 0
        self._seen: tuple[int, str] = (0, "")
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._look, name="loop-probe", daemon=True)
        self._original = asyncio.Handle._run

    def report(self) -> str:
        """The longest callback in a sentence, with the stack it was seen in."""
        return f"{self.longest * 1000:.0f} ms of CPU in one piece, in {self.callback}:\n{self.stack or '(not seen)'}"

    def _measured(self, handle: asyncio.Handle) -> None:
        if threading.get_ident() != self._thread:
            self._original(handle)
            return
        self._number += 1
        self._begun = time.perf_counter()
        before = time.thread_time()
        try:
            self._original(handle)
        finally:
            spent = time.thread_time() - before
            self._begun = None
            # The callback in which the block ends goes on with what comes after it.
            if spent > self.longest and not self._over.is_set():
                number, stack = self._seen
                self.longest = spent
                self.callback = repr(handle)
                self.stack = stack if number == self._number else ""

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            begun, number = self._begun, self._number
            if begun is None or time.perf_counter() - begun < max(_SUSPICIOUS_SECONDS, self.longest / 2):
                continue
            if self._seen[0] == number and time.perf_counter() - begun < 4 * _SUSPICIOUS_SECONDS:
                continue
            frame = sys._current_frames().get(self._thread)
            if frame is not None and self._number == number:
                self._seen = number, _stack(frame)

    def __enter__(self) -> Self:
        probe = self

        def run(handle: asyncio.Handle) -> None:
            probe._measured(handle)

        asyncio.Handle._run = run  # type: ignore[method-assign]
        self._watcher.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.Handle._run = self._original  # type: ignore[method-assign]
        self._over.set()
        self._watcher.join()


class Elsewhere:
    """A loop in another thread, so that what it does is not measured here."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@asynccontextmanager
async def elsewhere() -> AsyncIterator[Elsewhere]:
    """A loop in a thread of its own, until the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="elsewhere", daemon=True)
    thread.start()
    try:
        yield Elsewhere(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()


def _stack(frame: FrameType) -> str:
    entries = traceback.extract_stack(frame)[-_FRAMES:]
    return "\n".join(f"  {entry.filename}:{entry.lineno} {entry.name}" for entry in entries)
